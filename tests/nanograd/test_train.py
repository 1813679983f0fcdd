"""The training command on a small text, from flags to files; and the commands that read what it leaves."""

import math

import numpy as np
import pytest

from nanograd import plot, sample, terminal, train
from nanograd.config import from_command_line, read_toml
from nanograd.kernels.cpu import cpu_features, gemm
from nanograd.prepare import token_folder
from nanograd.settings import PRESETS
from tests.nanograd.small_runs import fails, records


def test_the_run_folder_holds_what_later_work_relies_on(finished):
    assert {p.name for p in finished.iterdir()} == {
        "config.toml", "config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl", "loss.png", "train.log",
        "checkpoints",
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


def test_blocks_that_run_again_train_to_the_same_bits_in_less_memory(flags, tmp_path, capsys):
    argv, memory = [*flags, "--dropout", "0.1", "--n-layers", "3"], []
    for name in ("--recompute-blocks", "--no-recompute-blocks"):
        assert terminal.run(train.main, [*argv, name, "--out", str(tmp_path / name)]) == 0
        capsys.readouterr()
        assert terminal.run(train.main, [*argv, name, "--batch-size", "2000", "--dry-run"]) == 0
        line = next(line for line in capsys.readouterr().err.splitlines() if " MB" in line)
        memory.append(int(line.partition("about ")[2].partition(" MB")[0].replace(",", "")))
    again, plain = (tmp_path / name / "model.safetensors" for name in ("--recompute-blocks", "--no-recompute-blocks"))
    assert again.read_bytes() == plain.read_bytes()
    assert memory[0] < memory[1]


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
    argv = [str(finished), "--prompt", "the cat", "--max-new-tokens", "8", "--seed", "3", "--device", "cpu"]
    assert terminal.run(sample.main, argv) == 0
    first, err = capsys.readouterr()
    assert first.startswith("the cat")
    assert err == ""
    assert terminal.run(sample.main, argv) == 0
    assert capsys.readouterr().out == first
    assert terminal.run(sample.main, [str(finished), "--prompt", "x " * 30, "--max-new-tokens", "1"]) == 0
    assert "only the last 16 of" in capsys.readouterr().err


def test_the_plot_command_draws_curve_and_attention(finished, capsys):
    assert terminal.run(plot.main, [str(finished), "--attention", "the cat sat"]) == 0
    assert capsys.readouterr().out.split() == [str(finished / "loss.png"), str(finished / "attention.png")]
    assert (finished / "attention.png").read_bytes().startswith(b"\x89PNG")
    (finished / "attention.png").unlink()
    fails(plot.main, [str(finished), "--attention", "the cat " * 50], "--attention: ", capsys)
    fails(plot.main, [str(finished / "nowhere")], "holds no metrics.jsonl", capsys)


def test_a_sample_of_a_model_that_reads_more_than_it_was_trained_on(flags, tmp_path, capsys):
    out = tmp_path / "run"
    argv = [*flags, "--positions", "rotary", "--rotary-layout", "pairs", "--steps", "2", "--out", str(out)]
    assert terminal.run(train.main, argv) == 0
    longer = [str(out), "--prompt", "x " * 30, "--max-new-tokens", "3", "--context-length", "64"]
    capsys.readouterr()
    for scaling in ("none", "dynamic", "yarn"):
        assert terminal.run(sample.main, [*longer, "--rotary-scaling", scaling]) == 0
        assert "tokens are read" not in capsys.readouterr().err
    fails(sample.main, [str(out), "--rotary-scaling", "yarn"], "give --context-length too", capsys)
