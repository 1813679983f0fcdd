"""--patience: training ends once validation has got no better for a while, and a run in pieces ends there too."""

import pytest

from nanograd import terminal, train, training_run
from nanograd.io.run_checkpoints import best_checkpoint
from tests.nanograd.same_runs import CHANCE, same_end
from tests.nanograd.small_runs import records

LOSSES = {
    2: 5.0,
    4: 4.0,
    6: 4.5,
    8: 4.0,
    10: 3.0,
    12: 2.0,
}  # by step: two evaluations in a row after step 4 are no better
EARLY = [*CHANCE, "--steps", "12", "--eval-every", "2", "--patience", "2", "--init", "random"]


@pytest.fixture(autouse=True)
def losses(monkeypatch):
    """What validation finds, so that it is known when it gets no better."""
    step = {}

    def remember(run, record_of=training_run.TrainingRun._validate):
        step["now"] = run.progress.step
        return record_of(run)

    monkeypatch.setattr(training_run.TrainingRun, "_validate", remember)
    monkeypatch.setattr(training_run, "mean_loss", lambda *_: LOSSES[step["now"]])


def trained(*argv):
    assert terminal.run(train.main, list(map(str, argv))) == 0


def last_step(out):
    return records(out)[-1]["step"]


def test_training_stops_after_so_many_evaluations_that_were_no_better(flags, tmp_path, capsys):
    out = tmp_path / "run"
    trained(*flags, *EARLY, "--out", out)
    told = " ".join(capsys.readouterr().err.split())
    assert last_step(out) == 8
    best = best_checkpoint(out)
    assert best.name == "step-00000004"
    assert "stopped early after step 8: 2 evaluations in a row without a better validation loss than the 4.0000" in told
    assert (out / "checkpoints" / "step-00000008").exists()
    assert "nanograd.sample" in told
    assert "step 8: " in told, "the sample of a run's end"


@pytest.mark.parametrize("patience", [0, 3])
def test_an_improvement_starts_the_count_anew_and_zero_never_stops(flags, tmp_path, patience):
    out = tmp_path / "run"
    trained(*flags, *EARLY, "--patience", patience, "--out", out)
    assert last_step(out) == 12


@pytest.mark.parametrize("pause", [1, 6])
def test_a_run_in_pieces_stops_where_the_run_in_one_go_does(flags, tmp_path, pause):
    whole, out = tmp_path / "whole", tmp_path / "run"
    trained(*flags, *EARLY, "--out", whole)
    trained(*flags, *EARLY, "--out", out, "--pause-at", pause)
    assert last_step(out) == pause
    trained("--resume", "--out", out)
    same_end(out, whole)


def test_a_run_that_stopped_early_is_finished_until_it_is_given_more_patience(flags, tmp_path, capsys):
    out = tmp_path / "run"
    trained(*flags, *EARLY, "--out", out)
    (out / "loss.png").unlink()
    capsys.readouterr()
    trained("--resume", "--out", out)
    assert last_step(out) == 8
    assert "stopped early after step 8" in capsys.readouterr().err
    assert (out / "loss.png").exists()
    trained("--resume", "--out", out, "--patience", "0")
    assert last_step(out) == 12
    assert "stopped early" not in capsys.readouterr().err


def test_evaluations_that_an_alert_calls_for_do_not_count(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(training_run.Alerts, "check", lambda self, record: {"loss_alert": "a jump"})
    monkeypatch.setattr(training_run, "mean_loss", lambda *_: 4.0)
    out = tmp_path / "run"
    trained(*flags, *EARLY, "--eval-every", "3", "--out", out)
    assert last_step(out) == 6
