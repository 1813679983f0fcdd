"""The training command in 16 bits: float32 on disk, the same bits after --resume, overflow apart from bad steps."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from nanograd import bad_step, evaluate, sample, terminal, train
from nanograd.io.arrays import read_arrays
from nanograd.io.run_checkpoints import all_checkpoints
from tests.nanograd.same_runs import CHANCE, same_end
from tests.nanograd.small_runs import fails, records
from tests.nanograd.test_train_guard import skipped, spoil_steps

SCALE = ["--loss-scale", "67108864", "--loss-scale-steps", "2"]  # too large by far at first, and soon tried again
KINDS = {
    "bf16": ["--precision", "bf16", "--ema-decay", "0.9"],
    "fp16": ["--precision", "fp16", "--init", "random", *SCALE],  # word vectors depend on the threads' luck
}


def begin(argv, out, *extra):
    assert terminal.run(train.main, [*argv, "--out", str(out), *extra]) == 0
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_ends_with_the_same_bits(kind, flags, tmp_path):
    flags = [*flags, *CHANCE, *KINDS[kind]]
    whole = begin(flags, tmp_path / "whole")
    run = begin(flags, tmp_path / "run", "--pause-at", "7")
    begin([], run, "--resume", "--pause-at", "None")
    same_end(run, whole)
    files = [f for f in all_checkpoints(run)[-1].iterdir() if f.suffix == ".safetensors"]
    floats = [a.dtype for f in files for a in read_arrays(f).values() if a.dtype.kind != "i"]
    assert set(floats) == {np.dtype(np.float32)}
    if kind == "fp16":
        lines = records(run)
        state = json.loads((all_checkpoints(run)[-1] / "state.json").read_text())
        assert state["loss_scale"]["overflows"] == len(skipped(run)) > 0
        assert state["guard"]["skipped"] == 0
        assert lines[0]["skipped"] == "gradient overflow at loss scale 6.71089e+07"
        scales = [line["loss_scale"] for line in lines]
        assert scales[0] == 67108864
        assert {b / a for a, b in pairwise(scales)} == {0.5, 1, 2}


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_as_float32_does_and_any_command_reads_it(kind, flags, finished, tmp_path, capsys):
    run = begin([*flags, "--precision", kind], tmp_path / "run")
    expected, found = records(finished), records(run)
    for ours, theirs in zip(found, expected, strict=True):
        assert math.isclose(ours["loss"], theirs["loss"], rel_tol=0.01)
    assert math.isclose(found[-1]["val_loss"], expected[-1]["val_loss"], rel_tol=0.01)
    capsys.readouterr()
    corpus, losses = flags[flags.index("--data") + 1], []
    for precision in ("float32", kind):
        argv = [str(run), "--data", corpus, "--split", "val", "--json", "--precision", precision]
        assert terminal.run(evaluate.main, argv) == 0
        losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert 0 < abs(losses[1] / losses[0] - 1) < 0.01
    assert terminal.run(sample.main, [str(run), "--prompt", "the", "--max-new-tokens", "3", "--precision", kind]) == 0
    assert capsys.readouterr().out.startswith("the")


def test_overflow_at_a_scale_of_one_is_a_bad_step(flags, tmp_path, monkeypatch, capsys):
    """A loss of infinity is never the scale's fault; the step that was kept goes bad again when it is replayed."""
    spoil_steps(monkeypatch, 3, by=math.inf)
    run = begin([*flags, "--precision", "fp16"], tmp_path / "run")
    assert skipped(run) == [3]
    state = json.loads((all_checkpoints(run)[-1] / "state.json").read_text())
    assert (state["guard"]["skipped"], state["loss_scale"]["overflows"]) == (1, 0)
    monkeypatch.undo()
    assert "finite" in bad_step.replay(run / bad_step.FOLDER)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--loss-scale", "8"], "--loss-scale and --loss-scale-steps are for --precision fp16"),
        (["--precision", "bf16", "--loss-scale-steps", "8"], "are for --precision fp16: no other type needs them"),
        (["--precision", "fp16", "--fuse-optimizer", "--clip-norm", "0"], "--fuse-optimizer can't skip a step"),
        (["--precision", "bf16", "--matmul-precision", "bf16"], "give one of the two"),
        (["--precision", "fp8"], "--precision"),
        (["--precision", "fp16", "--loss-scale", "0.5"], "--loss-scale: Expected `float` >= 1.0"),
        (["--precision", "fp16", "--loss-scale", "1e30"], "--loss-scale: Expected `float` <= 4294967296.0"),
    ],
)
def test_settings_that_contradict_each_other_are_one_line(wrong, message, flags, tmp_path, capsys):
    fails(train.main, [*flags, "--out", str(tmp_path / "run"), *wrong], message, capsys)
    assert not (tmp_path / "run").exists()


def test_another_precision_is_a_change_that_resume_must_be_told(flags, finished, tmp_path, capsys):
    run = begin(flags, tmp_path / "run", "--pause-at", "5")
    fails(train.main, ["--resume", "--out", str(run), "--precision", "bf16"], "precision: float32 → bf16", capsys)
    begin([], run, "--resume", "--resume-changed", "--precision", "bf16", "--pause-at", "None")
    assert records(run)[-1]["step"] == 10
