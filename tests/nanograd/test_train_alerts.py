"""The training command tells of a spike once: on the screen, in the log, in the metrics; and saves the model."""

import sys

import pytest

from nanograd import alerts, terminal, train
from nanograd.io.run_checkpoints import all_checkpoints
from nanograd.trainer import Trainer
from tests.nanograd.small_runs import fails, records
from tests.nanograd.test_event_file import scalars


def test_a_spike_is_told_logged_and_saved(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(alerts, "SETTLED", 3)
    step = Trainer.step
    spoiled = {7: {"loss": 50.0}}
    monkeypatch.setattr(Trainer, "step", lambda self, i, **settings: step(self, i, **settings) | spoiled.get(i, {}))
    assert terminal.run(train.main, [*flags, "--eval-every", "10", "--out", str(tmp_path / "x")]) == 0
    told = [r["step"] for r in records(tmp_path / "x") if "loss_alert" in r]
    assert told == [7]
    assert capsys.readouterr().err.count("alert: step 7: loss 50.000, more than twice the usual ") == 1
    assert "alert: step 7: loss 50.000" in (tmp_path / "x" / "train.log").read_text()
    assert [path.name for path in all_checkpoints(tmp_path / "x")] == ["step-00000007", "step-00000010"]


def test_metrics_for_tensorboard_have_a_point_for_every_step(flags, tmp_path):
    pytest.importorskip("tensorboardX")
    assert terminal.run(train.main, [*flags, "--tensorboard", "--out", str(tmp_path / "x")]) == 0
    losses = [(r["step"], round(r["loss"], 4)) for r in records(tmp_path / "x")]
    found = [(step, value) for step, tag, value in scalars(tmp_path / "x") if tag == "loss/training"]
    assert [step for step, _ in found] == [step for step, _ in losses]
    assert [value for _, value in found] == pytest.approx([loss for _, loss in losses], abs=1e-3)


def test_a_library_that_is_missing_is_said_before_anything_is_made(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    fails(train.main, [*flags, "--tensorboard", "--out", str(tmp_path / "x")], "--tensorboard needs a library", capsys)
    assert not (tmp_path / "x").exists()
