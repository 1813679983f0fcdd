"""The training command on a small text, from flags to files; and everything that can go wrong on the way."""

import json
import math
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy

from nanograd import backend, kernels, plot, sample, terminal, train
from nanograd.config import from_command_line, read_toml
from nanograd.io.run_folder import run_folder
from nanograd.kernels.cpu import cpu_features, gemm
from nanograd.prepare import token_folder
from nanograd.settings import PRESETS

SENTENCES = "the cat sat on the mat. a dog ran to the hut. one day it rained and the sun came out. "
SMALL = ["--vocab-size", "280", "--context-length", "16", "--n-layers", "1", "--n-heads", "2", "--d-model", "16",
         "--batch-size", "4", "--eval-every", "5", "--sample-every", "5", "--sample-tokens", "5", "--steps", "10",
         "--warmup-steps", "2", "--word2vec-epochs", "1"]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Thirty documents with a little variety."""
    folder = tmp_path_factory.mktemp("corpus")
    words = SENTENCES.split()
    rng = np.random.default_rng(0)
    for i in range(30):
        (folder / f"{i:02}.txt").write_text(" ".join(rng.choice(words, 120)))
    return folder


@pytest.fixture(scope="module")
def flags(corpus, tmp_path_factory):
    return [*SMALL, "--data", str(corpus), "--cache", str(tmp_path_factory.mktemp("cache"))]


@pytest.fixture(scope="module")
def finished(flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    assert terminal.run(train.main, [*flags, "--out", str(out)]) == 0
    return out


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_run_folder_holds_what_later_work_relies_on(finished):
    assert {p.name for p in finished.iterdir()} == {
        "config.toml", "config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl", "loss.png", "train.log"
    }  # fmt: skip
    lines = records(finished)
    assert [r["step"] for r in lines] == list(range(1, 11))
    assert [r["step"] for r in lines if "val_loss" in r] == [5, 10]
    for r in lines:
        assert {"step", "loss", "tokens", "tokens_per_second", "lr", "grad_norm", "seconds"} <= r.keys()
        assert r["tokens"] == r["step"] * 4 * 16
    assert lines[0]["loss"] == pytest.approx(math.log(280), rel=0.1)  # word vectors already know a little
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert (finished / "loss.png").read_bytes().startswith(b"\x89PNG")
    log = (finished / "train.log").read_text()
    assert "step 10, sample: The" in log


def test_the_same_seed_gives_the_same_run_bit_by_bit(finished, flags, tmp_path):
    assert terminal.run(train.main, [*flags, "--out", str(tmp_path / "b")]) == 0
    same = ("step", "loss", "val_loss", "lr", "grad_norm", "tokens")
    assert [[r.get(k) for k in same] for r in records(tmp_path / "b")] == [
        [r.get(k) for k in same] for r in records(finished)
    ]
    assert (tmp_path / "b" / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


def test_looking_at_a_run_does_not_change_it(flags, tmp_path):
    """Evaluation and samples draw nothing from training's streams of chance, dropout masks included."""
    seen = []
    for often in ("1", "100"):
        out = tmp_path / often
        argv = [*flags, "--dropout", "0.2", "--eval-every", often, "--sample-every", often, "--out", str(out)]
        assert terminal.run(train.main, argv) == 0
        seen.append([(r["loss"], r["grad_norm"]) for r in records(out)] + [records(out)[-1]["val_loss"]])
    assert seen[0] == seen[1]


def test_the_saved_settings_repeat_the_run(finished, tmp_path):
    out = tmp_path / "again"
    argv = ["--config", str(finished / "config.toml"), "--out", str(out)]
    assert terminal.run(train.main, argv) == 0
    assert records(out)[-1]["loss"] == records(finished)[-1]["loss"]
    assert read_toml(finished / "config.toml")["model"]["d_model"] == 16


def test_accumulated_micro_batches_equal_one_large_batch(flags, tmp_path):
    runs = {"one": ["--batch-size", "8"], "four": ["--batch-size", "2", "--accumulate", "4"]}
    for name, extra in runs.items():
        assert terminal.run(train.main, [*flags, "--steps", "3", *extra, "--out", str(tmp_path / name)]) == 0
    one, four = ([r["loss"] for r in records(tmp_path / name)] for name in runs)
    np.testing.assert_allclose(one, four, rtol=1e-5)


@pytest.mark.parametrize(
    "extra",
    [
        ["--init", "random", "--positions", "learned", "--no-tie-embeddings", "--activation", "relu"],
        ["--pattern", "naive", "--norm", "rms_norm", "--norm-placement", "post", "--dropout", "0.1"],
        ["--normalizer", "ascii", "--label-smoothing", "0.1", "--z-loss", "0.001", "--clip-norm", "0"],
    ],
)
def test_every_kind_of_model_and_text_trains(flags, tmp_path, extra):
    assert terminal.run(train.main, [*flags, *extra, "--steps", "4", "--out", str(tmp_path / "x")]) == 0
    assert (tmp_path / "x" / "model.safetensors").exists()


@pytest.fixture
def precision():
    """What products are computed in is a setting of the process: put it back."""
    before = gemm.matmul_precision()
    yield
    gemm.set_matmul_precision(before)


@pytest.mark.skipif(not cpu_features.has_bf16(), reason="this CPU has no AVX-512 BF16")
def test_training_in_bf16_learns_as_in_float32(flags, tmp_path, precision):
    losses = {}
    for name in ("float32", "bf16"):
        argv = [*flags, "--steps", "40", "--lr", "0.01", "--matmul-precision", name, "--out", str(tmp_path / name)]
        assert terminal.run(train.main, argv) == 0
        assert gemm.matmul_precision() == name
        losses[name] = np.array([r["loss"] for r in records(tmp_path / name)])
    assert losses["float32"][-1] < 0.9 * losses["float32"][0], "it must have learned something"
    np.testing.assert_allclose(losses["bf16"], losses["float32"], rtol=0.01)
    assert (losses["bf16"] != losses["float32"]).any(), "it must have been another precision"


def test_a_token_folder_can_be_data(finished, flags, tmp_path):
    folder = token_folder(from_command_line(PRESETS, flags, prog="train", about=""))
    argv = [*flags, "--data", str(folder), "--steps", "10", "--out", str(tmp_path / "t")]
    assert terminal.run(train.main, argv) == 0
    assert records(tmp_path / "t")[-1]["loss"] == records(finished)[-1]["loss"]


def test_dry_run_says_what_would_happen_and_writes_nothing(flags, tmp_path, capsys):
    argv = [*flags, "--preset", "psyduck-60m", "--vocab-size", "100277", "--d-model", "256", "--n-layers", "12",
            "--n-heads", "8", "--context-length", "128", "--cache", str(tmp_path / "cache"), "--dry-run"]  # fmt: skip
    assert terminal.run(train.main, argv) == 0
    out, err = capsys.readouterr()
    assert "d_model = 256" in out
    assert "60,910,517" in err
    assert list(tmp_path.iterdir()) == []


def test_the_sample_command_prints_the_text_alone(finished, capsys):
    argv = [str(finished), "--prompt", "the cat", "--max-new-tokens", "8", "--seed", "3"]
    assert terminal.run(sample.main, argv) == 0
    first, err = capsys.readouterr()
    assert first.startswith("the cat")
    assert err == ""
    assert terminal.run(sample.main, argv) == 0
    assert capsys.readouterr().out == first
    assert terminal.run(sample.main, [str(finished), "--prompt", "x " * 30, "--max-new-tokens", "1"]) == 0
    assert "only the last 16 of" in capsys.readouterr().err


def fails(main, argv, message, capsys):
    """Exit code 2 and one line."""
    assert terminal.run(main, argv) == 2
    err = capsys.readouterr().err.splitlines()
    assert [line for line in err if line.startswith("error: ")], err
    assert message in err[-1]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--data", "nowhere.txt"], "nowhere.txt"),
        (["--preset", "tinny"], "did you mean 'tiny'"),
        (["--config", "nowhere.toml"], "nowhere.toml: No such file"),
        (["--context-length", "100000"], "--context-length 100000"),
        (["--val-fraction", "0.005", "--context-length", "300"], "--context-length 300"),
        (["--steps", "0"], "--steps: Expected `int` >= 1, got 0"),
        (["--stpes", "3"], "did you mean --steps?"),
        (["--lr", "inf"], "--lr: inf is not a finite number"),
        (["--seed", "99999999999"], "--seed: Expected `int` <= 4294967295"),
        (["--data", ""], "--data: Expected `str` of length >= 1"),
        (["--device", "tpu"], "device 'tpu' is unknown"),
        (["--vocab-size", "100"], "100"),
        (["--batch-size", "99999999"], "not enough memory: this needs about"),
        (["--lr", "1e30", "--clip-norm", "0"], "diverged at step 2, loss nan: give a lower --lr"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(flags, tmp_path, capsys, extra, message):
    out = tmp_path / "run"
    fails(train.main, [*flags, "--out", str(out), *extra], message, capsys)
    if "--lr" not in extra:
        assert list(tmp_path.iterdir()) == []


def test_each_precision_is_compiled_once(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(kernels.subprocess, "Popen", lambda command, **settings: command[-1])
    kernels.note_compiled("float32")
    assert kernels.compile_elsewhere("{}", "float32") is None
    assert kernels.compile_elsewhere("{}", "bf16") == "bf16"
    kernels.note_compiled("bf16")
    assert kernels.compile_elsewhere("{}", "bf16") is None


def test_bf16_is_refused_where_it_cannot_run(flags, tmp_path, capsys, monkeypatch):
    argv = [*flags, "--out", str(tmp_path / "run"), "--matmul-precision", "bf16"]
    monkeypatch.setattr(gemm, "has_bf16", lambda: False)
    fails(train.main, argv, "bf16 needs a CPU with AVX-512 BF16", capsys)
    monkeypatch.setattr(gemm, "has_bf16", lambda: True)
    monkeypatch.setattr(backend, "check_device", lambda device: None)
    fails(train.main, [*argv, "--device", "cuda"], "bf16 is for the CPU, not for device 'cuda'", capsys)
    monkeypatch.setenv("NANOGRAD_KERNELS", "0")
    fails(train.main, argv, "NANOGRAD_KERNELS=0 keeps them off", capsys)
    assert list(tmp_path.iterdir()) == []


def test_settings_that_contradict_each_other_are_refused(flags, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    fails(train.main, [*flags, *out, "--n-heads", "3"], "d_model 16 is not divisible by n_heads 3", capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "content"), [("empty.txt", b""), ("binary.txt", b"\x00\x01\xff\xfe" * 100)])
def test_an_empty_or_binary_file_is_refused(flags, tmp_path, capsys, name, content):
    (tmp_path / name).write_bytes(content)
    fails(train.main, [*flags, "--data", str(tmp_path / name), "--out", str(tmp_path / "run")], name, capsys)
    assert {p.name for p in tmp_path.iterdir()} == {name}


def test_what_was_made_for_a_run_that_never_began_is_gone_and_what_was_there_is_not(flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for out in (["--out", "a/b/c"], ["--out", "mine"], []):
        assert terminal.run(train.main, [*flags, "--data", "nowhere.txt", *out]) == 2
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


def test_of_two_runs_started_at_once_one_gets_the_folder(tmp_path):
    wanted = str(tmp_path / "run")
    with run_folder(wanted, preset="tiny") as out:
        with pytest.raises(ValueError, match="there already and not empty"), run_folder(wanted, preset="tiny"):
            pass
        assert out.exists()


def test_the_next_command_can_be_pasted_into_a_shell(flags, tmp_path, capsys):
    out = tmp_path / "my $HOME's 100%"
    assert terminal.run(train.main, [*flags, "--steps", "1", "--sample-prompt", 'say "hi"', "--out", str(out)]) == 0
    command = shlex.split(capsys.readouterr().err.splitlines()[-1])
    assert command[:4] == ["next:", "python", "-m", "nanograd.sample"]
    assert terminal.run(sample.main, [*command[4:], "--max-new-tokens", "0"]) == 0
    assert capsys.readouterr().out == 'say "hi"\n'


def test_a_run_folder_that_cannot_be_made_or_is_taken_is_refused(flags, tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    fails(train.main, [*flags, "--out", str(tmp_path / "file")], "there already", capsys)
    fails(train.main, [*flags, "--out", str(tmp_path / "file" / "run")], "Not a directory", capsys)
    assert (tmp_path / "file").read_text() == "precious"


def test_without_out_runs_are_numbered(flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert terminal.run(train.main, [*flags, "--steps", "1"]) == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["tiny", "tiny-2"]


@pytest.mark.parametrize(
    ("name", "keep"),
    [
        ("train.npy", -1),
        ("val.npy", 0),
        ("manifest.json", -1),
        ("tokenizer.json", 9),
        ("word2vec", 0),
        ("word2vec", -1),
    ],
)
def test_a_damaged_cache_is_made_again(corpus, tmp_path, capsys, name, keep):
    argv = [*SMALL, "--data", str(corpus), "--cache", str(tmp_path / "cache"), "--steps", "1", "--out"]
    assert terminal.run(train.main, [*argv, str(tmp_path / "a")]) == 0
    (path,) = (tmp_path / "cache").glob("word2vec*" if name == "word2vec" else f"tokens-*/{name}")
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    assert terminal.run(train.main, [*argv, str(tmp_path / "b")]) == 0
    assert "WARNING: " in capsys.readouterr().err
    assert path.read_bytes() == whole
    assert records(tmp_path / "b")[-1]["loss"] == records(tmp_path / "a")[-1]["loss"]


def test_a_damaged_token_folder_of_the_user_is_refused_and_kept(flags, finished, tmp_path, capsys):
    folder = tmp_path / "tokens"
    shutil.copytree(token_folder(from_command_line(PRESETS, flags, prog="train", about="")), folder)
    (folder / "val.npy").write_bytes(b"")
    fails(train.main, [*flags, "--data", str(folder), "--out", str(tmp_path / "run")], "val.npy is damaged", capsys)
    assert (folder / "train.npy").exists()


def test_a_cache_that_cannot_be_written_is_found_out_before_the_work(flags, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    fails(train.main, [*flags, "--cache", str(tmp_path / "file"), "--out", str(tmp_path / "r")], "--cache", capsys)
    fails(train.main, [*flags, "--cache", str(tmp_path / "file/c"), "--out", str(tmp_path / "r")], "--cache", capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("limit", [20_000, 400])
def test_a_disk_that_fills_up_is_named_and_the_last_model_stays(flags, tmp_path, limit, capsys, monkeypatch):
    """RLIMIT_FSIZE: no file may grow beyond it; weights need more than 20,000 bytes, config.toml more than 400."""
    out = tmp_path / "run"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(train, "check_disk", lambda *_: None)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        code = terminal.run(train.main, [*flags, "--out", str(out)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    name = "model.safetensors" if limit == 20_000 else "config.toml"
    assert (code, capsys.readouterr().err.splitlines()[-1]) == (2, f"error: {out / name}: File too large")
    assert not out.exists() if limit == 400 else [p for p in out.iterdir() if p.name.startswith(".")] == []


def listen_to_ctrl_c():
    """A shell makes what it starts in the background deaf to SIGINT, and with it the tests' own processes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_text_is_prepared_leaves_nothing_half_done(tmp_path, number, code):
    (tmp_path / "text.txt").write_text("".join(chr(97 + i % 26) + str(i) + " " for i in range(300_000)))
    argv = ["--data", str(tmp_path / "text.txt"), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "nanograd.train", *SMALL, *argv]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=listen_to_ctrl_c)
    while not list(tmp_path.glob("cache/.tokens-*")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.splitlines()[-1]) == (code, b"interrupted")
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["text.txt"]
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_a_checkpoint(flags, tmp_path, number, code):
    out = tmp_path / "run"
    process = start(flags, out)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    last = records(out)[-1]
    assert last["step"] < 100_000
    assert "val_loss" in last
    assert (out / "loss.png").exists()
    assert f"stopped at step {last['step']}" in err


def test_training_goes_on_when_nobody_reads_its_progress_any_more(flags, tmp_path):
    command = shlex.join(
        [sys.executable, "-m", "nanograd.train", *flags, "--steps", "20", "--out", str(tmp_path / "run")]
    )
    done = subprocess.run(["bash", "-c", f"{command} 2>&1 | head -c 1"], capture_output=True, timeout=60, check=False)
    assert len(done.stdout) == 1
    assert len(records(tmp_path / "run")) == 20
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_after_kill_9_the_last_checkpoint_is_whole(flags, tmp_path):
    out = tmp_path / "run"
    process = start(flags, out)
    process.kill()
    process.communicate()
    assert safetensors.numpy.load_file(out / "model.safetensors")
    assert terminal.run(sample.main, [str(out), "--max-new-tokens", "2"]) == 0


def start(flags, out):
    """A long run in its own process, once it has saved its first checkpoint."""
    argv = [sys.executable, "-m", "nanograd.train", *flags, "--steps", "100000", "--out", str(out)]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    while not (out / "loss.png").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    return process


def test_the_plot_command_draws_curve_and_attention(finished, capsys):
    assert terminal.run(plot.main, [str(finished), "--attention", "the cat sat"]) == 0
    assert capsys.readouterr().out.split() == [str(finished / "loss.png"), str(finished / "attention.png")]
    assert (finished / "attention.png").read_bytes().startswith(b"\x89PNG")
    (finished / "attention.png").unlink()
    fails(plot.main, [str(finished), "--attention", "the cat " * 50], "--attention: ", capsys)
    fails(plot.main, [str(finished / "nowhere")], "holds no metrics.jsonl", capsys)
