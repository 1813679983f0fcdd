"""Ctrl-C, SIGTERM and SIGUSR1 at any time: saved first, and nothing is lost or changed by it."""

import os
import shutil
import signal
import time

import numpy as np
import pytest

from nanograd import terminal, train, trainer, training_run
from nanograd.display import TrainingDisplay
from nanograd.io.run_checkpoints import all_checkpoints, check_checkpoint
from tests.nanograd.forked_runs import RunServer
from tests.nanograd.same_runs import CHANCE, same_end
from tests.nanograd.small_runs import records


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    assert terminal.run(train.main, [*flags, *CHANCE, "--out", str(out)]) == 0
    return out


def begin(flags, out, code):
    assert terminal.run(train.main, [*flags, *CHANCE, "--out", str(out)]) == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("step", [5, 12])
def test_a_signal_during_evaluation_cuts_it_short_and_it_is_made_again(
    flags, whole, tmp_path, monkeypatch, number, code, step
):
    """The step is saved, its line of metrics.jsonl is not yet there; the resumed run evaluates and records it."""
    out, evaluations = tmp_path / "run", []

    def measure_and_signal(model, batches, device):
        evaluations.append(device)
        if len(evaluations) == {5: 1, 12: 3}[step]:
            os.kill(os.getpid(), number)
        return measure(model, batches, device)

    measure = training_run.mean_loss
    monkeypatch.setattr(training_run, "mean_loss", measure_and_signal)
    begin(flags, out, code)
    assert records(out)[-1]["step"] == step - 1
    assert check_checkpoint(all_checkpoints(out)[-1]).step == step
    assert terminal.run(train.main, ["--resume", "--out", str(out)]) == 0
    same_end(out, whole)


def signal_at(monkeypatch, step, *numbers, once=lambda: True):
    """Signals in the middle of that step, once something holds that is being waited for."""
    take = trainer.Trainer.step

    def step_with_signals(self, number, **settings):
        if number == step:
            while not once():
                time.sleep(0.01)
            for each in numbers:
                os.kill(os.getpid(), each)
        return take(self, number, **settings)

    monkeypatch.setattr(trainer.Trainer, "step", step_with_signals)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_a_step_saves_that_step(flags, whole, tmp_path, monkeypatch, number, code, capsys):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_at(patch, 7, number)
        begin(flags, out, code)
    assert "stopped at step 7, saved" in capsys.readouterr().err
    assert records(out)[-1]["step"] == check_checkpoint(all_checkpoints(out)[-1]).step == 7
    assert terminal.run(train.main, ["--resume", "--out", str(out)]) == 0
    same_end(out, whole)


def test_a_signal_after_a_step_saves_that_step(flags, whole, tmp_path, monkeypatch):
    """Here while its live line is drawn: no step follows."""
    out, update = tmp_path / "run", TrainingDisplay.update

    def update_with_signal(self, record, **figures):
        if record["step"] == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        update(self, record, **figures)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingDisplay, "update", update_with_signal)
        begin(flags, out, 143)
    assert check_checkpoint(all_checkpoints(out)[-1]).step == 7
    assert terminal.run(train.main, ["--resume", "--out", str(out)]) == 0
    same_end(out, whole)


def test_sigusr1_saves_and_goes_on(flags, whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    signal_at(monkeypatch, 8, signal.SIGUSR1)
    monkeypatch.setattr(
        training_run, "draw_loss", lambda run: shutil.copytree(run, tmp_path / f"at-{len(records(run))}")
    )
    begin(flags, out, 0)
    assert [check_checkpoint(folder).step for folder in all_checkpoints(tmp_path / "at-10")][-1] in (8, 10)
    assert 8 in [int(folder.name[5:]) for folder in all_checkpoints(tmp_path / "at-10")]
    same_end(out, whole)


def test_a_second_signal_leaves_at_once_and_the_last_checkpoint_is_whole(flags, whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_at(patch, 8, signal.SIGINT, signal.SIGINT, once=lambda: all_checkpoints(out))  # written beside training
        begin(flags, out, 130)
    assert check_checkpoint(all_checkpoints(out)[-1]).step == 5
    assert terminal.run(train.main, ["--resume", "--out", str(out)]) == 0
    same_end(out, whole)


def test_a_resumed_run_that_is_stopped_while_it_prepares_loses_nothing(flags, whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert terminal.run(train.main, [*flags, *CHANCE, "--pause-at", "7", "--out", str(out)]) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "train.log"}

    def stopped(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    def asked_to_save(*_):
        os.kill(os.getpid(), signal.SIGUSR1)  # there is nothing to save, and no reason to end
        return stopped()

    with monkeypatch.context() as patch:
        patch.setattr(train, "prepare_all", asked_to_save)
        assert terminal.run(train.main, ["--resume", "--out", str(out)]) == 143
    assert {path: path.read_bytes() for path in before} == before
    assert terminal.run(train.main, ["--resume", "--out", str(out)]) == 0
    same_end(out, whole)


@pytest.mark.parametrize(("signals", "kernels"), [(8, False), pytest.param(40, True, marks=pytest.mark.slow)])
def test_a_run_stopped_at_random_times_ends_as_if_it_had_not_been(flags, tmp_path, signals, kernels):
    rng, run = np.random.default_rng(signals), tmp_path / "run"
    argv = [*flags, *CHANCE, "--steps", "30", "--resume", "auto", "--out", str(run)]
    with RunServer(tmp_path / "log", kernels=kernels) as server:
        server.start([*argv[:-1], str(tmp_path / "whole")])
        assert server.ended(120) == 0, server.log.read_text()
        while signals:
            server.start(argv)
            code = server.ended(rng.uniform(0, 0.5))
            if code is None:
                server.send([signal.SIGINT, signal.SIGTERM, signal.SIGUSR1][signals % 3])
                code = server.ended(120)
                signals -= 1
            assert code in (0, 130, 143), server.log.read_text()
            if code == 0:
                same_end(run, tmp_path / "whole")
                shutil.rmtree(run)
        server.start(argv)
        assert server.ended(120) == 0, server.log.read_text()
    same_end(run, tmp_path / "whole")
