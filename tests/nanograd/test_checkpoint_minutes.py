"""--checkpoint-minutes: checkpoints by the clock, besides those by steps, and a run that goes on from one of them."""

import shutil

import pytest

from nanograd import terminal, train, training_run
from nanograd.io.run_checkpoints import all_checkpoints
from tests.nanograd.same_runs import CHANCE, same_end

RARE = [*CHANCE, "--steps", "12", "--eval-every", "12", "--checkpoint-every", "5", "--init", "random", "--keep", "100"]


@pytest.fixture
def a_minute_a_step(monkeypatch):
    """The run's clock shows as many minutes as steps were taken."""
    monkeypatch.setattr(training_run.TrainingRun, "_seconds", lambda run: 60.0 * run.progress.step)


@pytest.fixture(autouse=True)
def no_alerts(monkeypatch):
    """A step that a busy machine makes slow would be saved besides."""
    monkeypatch.setattr(training_run.Alerts, "check", lambda self, record: {})


def trained(*argv):
    assert terminal.run(train.main, list(map(str, argv))) == 0


def saved_steps(out):
    return [int(folder.name.removeprefix("step-")) for folder in all_checkpoints(out)]


@pytest.mark.usefixtures("a_minute_a_step")
@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(0, [5, 10, 12]), (3, [3, 5, 8, 10, 12]), (1.5, [2, 4, 5, 7, 9, 10, 12]), (60, [5, 10, 12])],
)
def test_one_is_written_when_the_last_is_so_old(flags, tmp_path, minutes, expected):
    out = tmp_path / "run"
    trained(*flags, *RARE, "--checkpoint-minutes", minutes, "--out", out)
    assert saved_steps(out) == expected


def test_a_run_goes_on_from_it_as_if_it_had_never_stopped(flags, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "run"
    argv = [*flags, *RARE, "--checkpoint-minutes", "600"]
    trained(*argv, "--out", whole)
    assert saved_steps(whole) == [5, 10, 12]
    with monkeypatch.context() as patch:
        patch.setattr(training_run.TrainingRun, "_seconds", lambda run: 200 * 60.0 * run.progress.step)
        trained(*argv, "--out", out)
    assert saved_steps(out) == [3, 5, 8, 10, 12]
    for folder in all_checkpoints(out)[1:]:  # as if killed in step 4
        shutil.rmtree(folder)
    trained("--resume", "--out", out)
    same_end(out, whole)
