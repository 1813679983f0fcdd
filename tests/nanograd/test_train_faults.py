"""Everything that can go wrong in a training run: bad input, full disks, damaged caches, signals."""

import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import safetensors.numpy

from nanograd import backend, sample, terminal, train, training_run
from nanograd.config import from_command_line
from nanograd.io.run_checkpoints import all_checkpoints, check_checkpoint
from nanograd.io.run_folder import run_folder
from nanograd.kernels.cpu import gemm
from nanograd.prepare import token_folder
from nanograd.settings import PRESETS
from tests.nanograd.small_runs import SMALL, fails, records


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--data", "nowhere.txt"], "nowhere.txt"),
        (["--preset", "tinny"], "did you mean 'tiny'"),
        (["--config", "nowhere.toml"], "nowhere.toml: No such file"),
        (["--context-length", "100000"], "--context-length 100000"),
        (["--val-fraction", "0.005", "--context-length", "300"], "--context-length 300"),
        (["--steps", "0"], "--steps: Expected `int` >= 1, got 0"),
        (["--checkpoint-minutes", "-1"], "--checkpoint-minutes: Expected `float` >= 0"),
        (["--patience", "-1"], "--patience: Expected `int` >= 0"),
        (["--stpes", "3"], "did you mean --steps?"),
        (["--lr", "inf"], "--lr: inf is not a finite number"),
        (["--seed", "99999999999"], "--seed: Expected `int` <= 4294967295"),
        (["--preset", ""], "no preset is called ''"),
        (["--vocab-size", "99999999999999999999"], "--vocab-size: Expected `int` <= 2147483647"),
        (["--word2vec-epochs", "99999999999999999999"], "--word2vec-epochs: Expected `int` <= 2147483647"),
        (["--data", ""], "--data: Expected `str` of length >= 1"),
        (["--device", "tpu"], "device 'tpu' is unknown"),
        (["--vocab-size", "100"], "100"),
        (["--batch-size", "99999999"], "not enough memory: this needs about"),
        (
            ["--lr", "1e30", "--clip-norm", "0"],
            "diverged at step 6, gradient norm nan, 5 bad steps in a row; first not finite",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(flags, tmp_path, capsys, extra, message):
    out = tmp_path / "run"
    fails(train.main, [*flags, "--out", str(out), *extra], message, capsys)
    if "--lr" not in extra:
        assert list(tmp_path.iterdir()) == []


def test_bf16_is_refused_where_it_cannot_run(flags, tmp_path, capsys, monkeypatch):
    argv = [*flags, "--out", str(tmp_path / "run"), "--matmul-precision", "bf16"]
    monkeypatch.setattr(gemm, "has_bf16", lambda: False)
    fails(train.main, argv, "bf16 needs a CPU with AVX-512 BF16", capsys)
    monkeypatch.setattr(gemm, "has_bf16", lambda: True)
    fails(train.main, [*argv[:-1], "tf32"], "tf32 is for CUDA devices: on the CPU use float32, or bf16", capsys)
    monkeypatch.setattr(backend, "check_device", lambda device: None)
    monkeypatch.setattr(backend, "work_on", lambda device: None)
    monkeypatch.setattr(backend, "compute_capability", lambda device: 75)
    message = "bf16 needs a GPU of compute capability 8.0 (A100) or later, and this one has 7.5: use float32"
    fails(train.main, [*argv, "--device", "cuda"], message, capsys)
    monkeypatch.setenv("NANOGRAD_KERNELS", "0")
    fails(train.main, argv, "which the environment keeps off", capsys)
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
        ("train-00000.npy", -1),
        ("val-00000.npy", 0),
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
    (folder / "val-00000.npy").write_bytes(b"")
    fails(
        train.main, [*flags, "--data", str(folder), "--out", str(tmp_path / "run")], "val-00000.npy is damaged", capsys
    )
    assert (folder / "train-00000.npy").exists()


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
    monkeypatch.setattr(training_run, "check_disk", lambda *_, **__: None)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        code = terminal.run(train.main, [*flags, "--out", str(out)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    name = "checkpoints/step-00000010" if limit == 20_000 else "config.toml"
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
    with subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=listen_to_ctrl_c) as process:
        while not list(tmp_path.glob("cache/.tokens-*.partial")):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
    assert (process.returncode, err.splitlines()[-1]) == (code, b"interrupted")
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["text.txt"]
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_a_checkpoint(flags, tmp_path, number, code):
    out = tmp_path / "run"
    process = start(flags, out)
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    last = records(out)[-1]
    assert last["step"] < 100_000
    assert check_checkpoint(all_checkpoints(out)[-1]).step == last["step"]
    assert f"stopped at step {last['step']}" in err


def test_training_goes_on_when_nobody_reads_its_progress_any_more(flags, tmp_path):
    command = shlex.join(
        [sys.executable, "-m", "nanograd.train", *flags, "--steps", "20", "--out", str(tmp_path / "run")]
    )
    done = subprocess.run(["bash", "-c", f"{command} 2>&1 | head -c 1"], capture_output=True, timeout=300, check=False)
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
    while not (out / "model.safetensors").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    return process
