"""Writing beside the training: from a copy, one at a time, and nothing that goes wrong is lost."""

import threading

import numpy as np
import pytest

from nanograd import terminal, train
from nanograd.io import checkpoint_writer
from nanograd.io.background import BackgroundWriter
from nanograd.io.run_checkpoints import all_checkpoints, check_checkpoint
from nanograd.memory import check_disk
from nanograd.trainer import Trainer
from tests.nanograd.same_runs import CHANCE
from tests.nanograd.small_runs import fails, records


def test_jobs_run_one_after_the_other_and_errors_are_told_once():
    done, may_end = [], threading.Event()

    def slow():
        may_end.wait(60)
        done.append("slow")

    def failing():
        raise OSError(28, "No space left on device")

    with BackgroundWriter() as writer:
        writer.submit(slow)
        assert done == []
        may_end.set()
        writer.submit(failing)
        assert done == ["slow"]
        writer.submit(lambda: done.append("last"))
        assert [error.errno for error in writer.errors()] == [28]
        assert writer.errors() == []
    assert done == ["slow", "last"]


def test_a_second_ctrl_c_does_not_wait_for_the_writer():
    may_end, writer = threading.Event(), BackgroundWriter()

    def leave_at_once():
        with writer:
            writer.submit(lambda: may_end.wait(60))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave_at_once()
    assert not may_end.is_set()
    may_end.set()
    writer.wait()


def test_a_snapshot_is_a_copy(flags, tmp_path, monkeypatch):
    """Were it the live arrays, the checkpoint would hold what training made of them while it was written.

    The second one lies where the first did: in new memory it would come on top of what a step needs.
    """
    compared, places, take = [], set(), Trainer.snapshot

    def snapshot(self, earlier=None):
        arrays = take(self, earlier)
        places.add(arrays["model.safetensors"]["tokens.weight"].ctypes.data)
        live = {"model.safetensors": self.model.state_dict(), "optimizer.safetensors": self.optimizer.state_dict()}
        for file, named in arrays.items():
            for name, copy in named.items():
                np.testing.assert_array_equal(copy, live[file][name])
                assert not np.shares_memory(copy, live[file][name]), name
                compared.append(name)
        return arrays

    monkeypatch.setattr(Trainer, "snapshot", snapshot)
    argv = [*flags, "--steps", "6", "--checkpoint-every", "2", "--out", str(tmp_path / "run")]
    assert terminal.run(train.main, argv) == 0
    assert len(compared) > 90
    assert len(places) == 1


def refuse_writes(monkeypatch, steps, error):
    """Checkpoints of these steps can't be written."""
    write = checkpoint_writer.write_checkpoint

    def refuse(run, fill, *, step, **settings):
        if step in steps:
            raise error
        return write(run, fill, step=step, **settings)

    monkeypatch.setattr(checkpoint_writer, "write_checkpoint", refuse)


FULL = OSError(28, "No space left on device", "step-00000010")


def test_a_full_disk_is_told_and_training_goes_on(flags, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    refuse_writes(monkeypatch, {10}, FULL)
    assert terminal.run(train.main, [*flags, "--steps", "15", "--out", str(out)]) == 0
    err = capsys.readouterr().err
    assert "WARNING: no checkpoint: step-00000010: No space left on device: a checkpoint needs 0.2 MB, " in err
    assert "MB are free; training goes on, the checkpoint of step 5 stays" in err
    assert [check_checkpoint(folder).step for folder in all_checkpoints(out)] == [5, 15]
    assert len(records(out)) == 15


def test_or_training_stops_with_the_last_good_checkpoint(flags, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    refuse_writes(monkeypatch, {10}, FULL)
    argv = [*flags, "--steps", "1000", "--on-save-error", "stop", "--out", str(out)]
    fails(train.main, argv, "a checkpoint needs", capsys)
    assert [check_checkpoint(folder).step for folder in all_checkpoints(out)] == [5]
    assert len(records(out)) < 1000
    monkeypatch.undo()
    assert terminal.run(train.main, ["--resume", "--pause-at", "12", "--out", str(out)]) == 0
    assert [r["step"] for r in records(out)] == list(range(1, 13))


def test_the_last_checkpoint_is_not_lost_unseen(flags, tmp_path, monkeypatch, capsys):
    refuse_writes(monkeypatch, {10}, PermissionError(13, "Permission denied", "step-00000010"))
    fails(train.main, [*flags, "--out", str(tmp_path / "run")], "step-00000010: Permission denied", capsys)


def test_a_mistake_of_ours_in_the_writer_is_raised_and_not_lost(flags, tmp_path, monkeypatch):
    refuse_writes(monkeypatch, {5}, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        train.main([*flags, *CHANCE, "--out", str(tmp_path / "run")])


def test_a_disk_that_cannot_hold_the_checkpoints_is_refused_before_the_first_step(tmp_path):
    check_disk(tmp_path, 1000, keep=2)
    with pytest.raises(OSError, match=r"4 checkpoints of 1,000,000,000,000.0 MB need 4,000,000,000,001.0 MB"):
        check_disk(tmp_path, 10**18, keep=2)


def test_a_resumed_run_counts_the_checkpoints_that_are_there_already(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    (folder / "numbers").write_bytes(bytes(3_000_000))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2_000_000}))
    check_disk(tmp_path, 1_000_000, keep=2)
    with pytest.raises(OSError, match=r"4 checkpoints of 1.1 MB"):
        check_disk(tmp_path, 1_100_000, keep=2)
