"""What a bad step leaves on the disk, and what is left of it after a kill or a fault inside --fuse-optimizer."""

import math
import shutil

import msgspec
import pytest

from nanograd import bad_step, nn, terminal, train
from nanograd.diagnosis import HARDWARE
from nanograd.io.run_folder import clean_up, forget_unsaved
from nanograd.trainer import Trainer
from tests.nanograd.small_runs import fails, records
from tests.nanograd.test_bad_steps import spoiled_backward
from tests.nanograd.test_train_guard import begin, skipped, spoil_steps


def spoil_gradients(monkeypatch, *steps):
    """The gradient that comes into each MLP is no number in these steps."""
    step, forward, now = Trainer.step, nn.MLP.forward, [0]

    def counted(self, i, **settings):
        now[0] = i
        return step(self, i, **settings)

    def spoiled(self, x, **settings):
        y = forward(self, x, **settings)
        return spoiled_backward(y, by=math.nan) if now[0] in steps else y

    monkeypatch.setattr(Trainer, "step", counted)
    monkeypatch.setattr(nn.MLP, "forward", spoiled)


def test_inside_backward_a_bad_gradient_ends_the_run_and_the_advice_given_helps(flags, tmp_path, monkeypatch, capsys):
    out = tmp_path / "x"
    argv = [*flags, "--clip-norm", "0", "--checkpoint-every", "5"]
    spoil_gradients(monkeypatch, 7)
    line = (
        "training diverged at step 7, the gradient of blocks.0.mlp.down.bias has the norm nan: inside --fuse-optimizer "
        "a step can't be skipped once it has begun; --resume --resume-changed --no-fuse-optimizer can, or give a lower "
        f"--lr; {out} keeps the model of step 5"
    )
    fails(train.main, [*argv, "--fuse-optimizer", "--out", str(out)], line, capsys)
    advice = ["--resume", "--out", str(out), "--resume-changed", "--no-fuse-optimizer"]
    assert terminal.run(train.main, advice) == 0
    assert skipped(out) == [7]
    assert "skipped steps" in capsys.readouterr().err
    whole = begin([*argv, "--no-fuse-optimizer"], tmp_path / "whole")
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert [r["loss"] for r in records(out)] == [r["loss"] for r in records(whole)]


def test_the_first_bad_step_of_a_run_is_kept_and_later_ones_are_not(flags, tmp_path, monkeypatch):
    spoil_gradients(monkeypatch, 3, 6)
    out = begin(flags, tmp_path / "x")
    about = msgspec.json.decode((out / "bad-step" / "bad_step.json").read_bytes(), type=bad_step.About)
    assert (about.step, about.why, about.found) == (
        3, "gradient norm nan", "first not finite: the gradient of blocks.0.mlp.down.bias"
    )  # fmt: skip
    monkeypatch.undo()
    assert bad_step.replay(out / "bad-step") == HARDWARE


def test_what_a_kill_leaves_of_a_bad_step_is_cleaned_up(tmp_path):
    for name in (".bad-step.abc", ".bad-step.replaced", "bad-step"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    clean_up(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bad-step"]
    forget_unsaved(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["bad_step.json", "batches.safetensors", "model.safetensors"])
def test_a_damaged_bad_step_is_told(flags, tmp_path, monkeypatch, name):
    with monkeypatch.context() as patch:
        spoil_steps(patch, 2)
        folder = begin([*flags, "--steps", "2"], tmp_path / "x") / "bad-step"
    shutil.copytree(folder, tmp_path / "b")
    (tmp_path / "b" / name).write_bytes((folder / name).read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"damaged|truncated"):
        bad_step.replay(tmp_path / "b")
    (tmp_path / "b" / name).unlink()
    with pytest.raises(OSError, match=name):
        bad_step.replay(tmp_path / "b")
