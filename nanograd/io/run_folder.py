"""Floor 5. The folder of a run: claimed before anything is written, gone again if nothing came of it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from nanograd import terminal

BEFORE_STEP_1 = ("train.log", "config.toml", "config.json", "tokenizer.json", "metrics.jsonl")  # written by then


@contextlib.contextmanager
def run_folder(wanted: str | None, *, preset: str) -> Iterator[Path]:
    """The folder `wanted`, or else runs/PRESET, runs/PRESET-2, …: empty but for its train.log, and this run's alone.

    What was made of it vanishes again if the run ends before its first step. Raises ValueError for a folder that is
    taken, OSError for one that can't be made.
    """
    out, made = _claim(Path(wanted or f"runs/{preset}"), numbered=wanted is None)
    try:
        yield out
    except BaseException:
        metrics = out / "metrics.jsonl"
        if not metrics.exists() or metrics.stat().st_size == 0:
            terminal.configure_logging()  # lets go of train.log
            for name in BEFORE_STEP_1:
                (out / name).unlink(missing_ok=True)
            for folder in made:
                with contextlib.suppress(OSError):  # somebody else has put something there
                    folder.rmdir()
        raise


def _claim(wanted: Path, *, numbered: bool) -> tuple[Path, list[Path]]:
    """`wanted`, or the first free of wanted-2, wanted-3, …; and the folders that had to be made, innermost first."""
    for number in range(1, 10_000 if numbered else 2):
        out = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        made = [folder for folder in (out, *out.parents) if not folder.exists()]
        with contextlib.suppress(FileExistsError):
            out.mkdir(parents=True, exist_ok=not numbered)
            if not any(out.iterdir()):
                (out / "train.log").touch(exist_ok=False)  # of two runs started at once one gets it
                return out, made
    raise ValueError(f"--out {wanted} is there already and not empty: choose another folder")
