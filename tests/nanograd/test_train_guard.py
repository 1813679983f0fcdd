"""The training command and steps that go bad: skipped, counted, told, survived by --resume, and in the end given up."""

import json
import math
import shutil

import pytest

from nanograd import bad_step, terminal, train, training_run
from nanograd.diagnosis import HARDWARE
from nanograd.io.run_checkpoints import all_checkpoints
from nanograd.models import DecoderLM
from nanograd.trainer import Trainer
from tests.nanograd.same_runs import CHANCE, same_end
from tests.nanograd.small_runs import fails, records


def spoil_steps(monkeypatch, *steps, by=math.nan):
    """The loss of these steps is multiplied by a number."""
    step, loss, now = Trainer.step, DecoderLM.loss, [0]

    def counted(self, i, **settings):
        now[0] = i
        return step(self, i, **settings)

    def spoiled(self, *batch, **settings):
        whole = loss(self, *batch, **settings)
        return whole * by if now[0] in steps and self.training else whole

    monkeypatch.setattr(Trainer, "step", counted)
    monkeypatch.setattr(DecoderLM, "loss", spoiled)


def begin(argv, out, *extra):
    assert terminal.run(train.main, [*argv, "--out", str(out), *extra]) == 0
    return out


def skipped(run):
    return [r["step"] for r in records(run) if "skipped" in r]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_in_pieces_across_skipped_steps_equals_the_run_in_one_go(flags, tmp_path, monkeypatch, capsys, optimizer):
    spoil_steps(monkeypatch, 1, 4, 5, 6, 9)
    argv = [*flags, *CHANCE, "--optimizer", optimizer, "--ema-decay", "0.9"]
    whole = begin(argv, tmp_path / "whole")
    assert skipped(whole) == [1, 4, 5, 6, 9]
    assert records(whole)[5]["skipped"] == "loss nan"
    assert [r["skipped_steps"] for r in records(whole) if "skipped" in r] == [1, 2, 3, 4, 5]
    assert records(whole)[4]["loss"] is None
    assert "step 4 skipped, loss nan; first not finite: the output of DecoderLM (" in (err := capsys.readouterr().err)
    assert "step 5 skipped, loss nan\n" in err
    assert "alert: " not in err
    for pauses in ([4], [5, 6], [1, 9, 10]):
        out = begin(argv, tmp_path / str(pauses), "--pause-at", str(pauses[0]))
        for pause in (*pauses[1:], 12):
            assert terminal.run(train.main, ["--resume", "--out", str(out), "--pause-at", str(pause)]) == 0
        same_end(out, whole)
        shutil.rmtree(out)


def test_several_in_a_row_end_the_run_with_one_line_and_the_last_good_checkpoint(flags, tmp_path, monkeypatch, capsys):
    out = tmp_path / "x"
    argv = [*flags, "--checkpoint-every", "1", "--max-bad-steps", "3", "--out", str(out)]
    with monkeypatch.context() as patch:
        spoil_steps(patch, 6, 8, 9, 10)
        line = (
            "training diverged at step 10, loss nan, 3 bad steps in a row; first not finite: the output of DecoderLM"
            f" (mul); {out} keeps the model of step 7, and {out / 'bad-step'} repeats this step: give a lower --lr"
        )
        fails(train.main, argv, line, capsys)
    assert skipped(out) == [6, 8, 9, 10]
    assert [path.name for path in all_checkpoints(out)][-1] == "step-00000007"
    assert json.loads((out / "bad-step" / "bad_step.json").read_text())["step"] == 10
    assert bad_step.replay(out / "bad-step") == HARDWARE, "without what this test put in"
    assert terminal.run(train.main, ["--resume", "--out", str(out), "--max-bad-steps", "5"]) == 0
    assert skipped(out) == [6]


def test_a_kept_step_repeats_the_nan_of_the_run(flags, tmp_path, capsys):
    out = tmp_path / "x"
    assert terminal.run(train.main, [*flags, "--lr", "1e30", "--clip-norm", "0", "--out", str(out)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert (found := bad_step.replay(out / "bad-step")) in line
    assert found.startswith("first not finite: the gradient of blocks.0.")
    about = json.loads((out / "bad-step" / "bad_step.json").read_text())
    assert about == {"step": 6, "why": "gradient norm nan", "found": found, "seed": 0, "dropout_calls": 0,
                     "first_batch": 5, "n_batches": 1, "updates": 1}  # fmt: skip


def test_weights_stay_as_they_were_while_steps_are_bad(flags, tmp_path, monkeypatch):
    """Ends in bad steps: no sample is drawn, and what is saved are the weights of the last good step."""
    spoil_steps(monkeypatch, *range(8, 11), by=math.inf)
    out = begin([*flags, "--schedule", "constant"], tmp_path / "x")
    assert skipped(out) == [8, 9, 10]
    good = begin([*flags, "--schedule", "constant"], tmp_path / "good", "--steps", "7")
    assert (out / "model.safetensors").read_bytes() == (good / "model.safetensors").read_bytes()
    assert terminal.run(train.main, ["--resume", "--out", str(out)]) == 0, "a finished run that ended in a bad step"


def test_a_validation_that_is_no_number_is_not_the_best(flags, tmp_path, monkeypatch):
    losses = iter([math.nan, 4.0, 5.0])
    monkeypatch.setattr(training_run, "mean_loss", lambda *_: next(losses))
    out = begin([*flags, "--steps", "15"], tmp_path / "x")
    state = json.loads((all_checkpoints(out)[-1] / "state.json").read_text())
    assert state["best_val_loss"] == 4.0


def test_a_disk_that_is_full_is_no_reason_to_end_for_a_bad_step(flags, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "bad-step")

    monkeypatch.setattr(bad_step, "save", full)
    spoil_steps(monkeypatch, 3)
    begin(flags, tmp_path / "x")
    assert "the bad step was not kept: bad-step: No space left on device" in capsys.readouterr().err


def test_spikes_are_skipped_only_on_demand_and_never_inside_backward(flags, tmp_path, capsys):
    argv = [*flags, "--fuse-optimizer", "--clip-norm", "0", "--skip-spikes", "--out", str(tmp_path / "x")]
    fails(train.main, argv, "--skip-spikes needs the whole gradient before the step: give --no-fuse-optimizer", capsys)
    fails(train.main, [*flags, "--max-bad-steps", "0"], "--max-bad-steps: Expected `int` >= 1", capsys)


def test_with_skipped_spikes_the_loss_ends_as_in_a_run_without_them(flags, tmp_path, monkeypatch, capsys):
    """Three steps weigh fifty times as much as they should."""
    argv = [*flags, "--steps", "160", "--eval-every", "160", "--sample-every", "0", "--optimizer", "sgd"]
    argv += ["--lr", "0.1", "--clip-norm", "0"]
    clean = records(begin(argv, tmp_path / "clean"))[-1]["val_loss"]
    spoil_steps(monkeypatch, 100, 101, 130, by=50.0)
    hurt = records(begin(argv, tmp_path / "hurt"))[-1]["val_loss"]
    whole = begin([*argv, "--skip-spikes"], tmp_path / "whole")
    out = begin([*argv, "--skip-spikes"], tmp_path / "skipped", "--pause-at", "101")
    assert terminal.run(train.main, ["--resume", "--out", str(out)]) == 0
    same_end(out, whole)
    assert skipped(whole) == [100, 101, 130]
    assert "step 100 skipped, loss " in capsys.readouterr().err
    assert records(whole)[-1]["val_loss"] == pytest.approx(clean, rel=0.01)
    assert hurt > 1.05 * clean


def test_a_loss_that_jumps_is_told_once_validated_and_saved(flags, tmp_path, monkeypatch, capsys):
    spoil_steps(monkeypatch, 24, 25, by=5)
    seldom = ["--steps", "26", "--eval-every", "26", "--checkpoint-every", "26"]
    out = begin([*flags, *seldom], tmp_path / "x")
    assert capsys.readouterr().err.count("alert: step 24: loss ") == 1
    assert [r["step"] for r in records(out) if "loss_alert" in r] == [24]
    assert [r["step"] for r in records(out) if "val_loss" in r] == [24, 26]
    assert [path.name for path in all_checkpoints(out)] == ["step-00000024", "step-00000026"]
