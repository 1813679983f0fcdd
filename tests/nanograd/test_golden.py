"""A run that was paused when format 1 was new: every later version goes on with it, to the same loss."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from nanograd import sample, terminal, train
from nanograd.io.run_checkpoints import all_checkpoints, check_checkpoint
from tests.nanograd.small_runs import records

GOLDEN = Path(__file__).parent / "golden" / "format_1"
LOSSES = [5.53574800, 5.58909607, 5.64690304, 5.65081263]  # of the version that wrote it; steps 3 and 4 after a resume
VAL_LOSS = 5.59626858


@pytest.fixture
def run(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN, tmp_path / "run", ignore=shutil.ignore_patterns("corpus.txt"))
    return tmp_path / "run"


def test_it_is_whole(run: Path) -> None:
    """Git, or an editor, may have changed line ends."""
    assert check_checkpoint(all_checkpoints(run)[0]).step == 2


def test_it_goes_on_to_the_same_end(run: Path, tmp_path: Path) -> None:
    elsewhere = ["--data", str(GOLDEN / "corpus.txt"), "--cache", str(tmp_path / "cache")]
    assert terminal.run(train.main, ["--resume", "--out", str(run), *elsewhere]) == 0
    np.testing.assert_allclose([r["loss"] for r in records(run)], LOSSES, rtol=1e-5)
    assert records(run)[-1]["val_loss"] == pytest.approx(VAL_LOSS, rel=1e-5)


def test_it_is_a_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [str(all_checkpoints(run)[0]), "--prompt", "the cat", "--max-new-tokens", "4", "--temperature", "0"]
    assert terminal.run(sample.main, argv) == 0
    assert capsys.readouterr().out.startswith("the cat")
