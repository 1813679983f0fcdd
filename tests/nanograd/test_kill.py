"""SIGKILL at any moment: every restart goes on by itself, and the end is that of the run that was never killed."""

import contextlib
import shutil
import time

import numpy as np
import pytest

from nanograd.io.run_checkpoints import all_checkpoints, check_checkpoint
from tests.nanograd.forked_runs import RunServer
from tests.nanograd.same_runs import CHANCE, same_end

SAVING = ["--steps", "24", "--checkpoint-every", "2", "--eval-every", "6", "--sample-every", "0", "--keep-every", "10"]


def half_written(run):
    """Names of checkpoints that are being written, moved or deleted."""
    with contextlib.suppress(FileNotFoundError):  # a start that finds no whole one deletes the folder, at any moment
        return {path.name for path in (run / "checkpoints").glob(".step-*")}
    return set()


def kill_inside_a_write(server, run, skip):
    """Wait for the beginning of a write after `skip` others, and kill there. True if the write was cut short."""
    seen, known = 0, half_written(run)
    while (code := server.ended(0)) is None:
        new = half_written(run) - known
        known |= new
        seen += len(new)
        if seen > skip:
            server.kill()
            return bool(half_written(run))
    assert code == 0, server.log.read_text()
    return False


def kill_after(server, seconds):
    """True if the run had not ended by then."""
    code = server.ended(seconds)
    assert code in (None, 0), server.log.read_text()
    return code is None and server.kill() == -9


def finish(server, run, argv):
    server.start(argv)
    assert server.ended(120) == 0, server.log.read_text()


@pytest.mark.parametrize(
    ("kills", "kernels"),
    [(25, False), pytest.param(100, True, marks=pytest.mark.slow)],
    ids=["25 times", "100 times"],
)
def test_a_run_killed_again_and_again_ends_bit_by_bit_as_if_it_had_not_been(flags, tmp_path, kills, kernels):
    rng, run, inside, outside, ends = np.random.default_rng(kills), tmp_path / "run", 0, 0, 0
    argv = [*flags, *CHANCE, *SAVING, "--resume", "auto", "--out", str(run)]
    with RunServer(tmp_path / "log", kernels=kernels) as server:
        finish(server, tmp_path / "whole", [*argv[:-1], str(tmp_path / "whole")])
        started = time.monotonic()
        finish(server, run, argv)
        usual = time.monotonic() - started
        shutil.rmtree(run)
        while inside + outside < kills:
            server.start(argv)
            if inside < kills / 3 <= outside or (inside < kills / 3 and rng.random() < 0.5):
                inside += kill_inside_a_write(server, run, skip=int(rng.integers(4)))
            else:
                outside += kill_after(server, rng.uniform(0, usual))
            saved = all_checkpoints(run)
            for checkpoint in saved:
                check_checkpoint(checkpoint)
            if saved and int(saved[-1].name[5:]) == 24:
                finish(server, run, argv)
                same_end(run, tmp_path / "whole")
                shutil.rmtree(run)
                ends += 1
        finish(server, run, argv)
    same_end(run, tmp_path / "whole")
    assert list(run.rglob(".*")) == []
    assert inside >= kills // 3
