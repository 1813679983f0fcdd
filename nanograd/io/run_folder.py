"""Floor 5. The folder of a run: claimed before anything is written, held by one process, gone if nothing came of it."""

import contextlib
import logging
import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from nanograd import terminal

log = logging.getLogger(__name__)

LOCK = "train.lock"
BEFORE_STEP_1 = ("train.log", "config.toml", "config.json", "tokenizer.json", "metrics.jsonl")  # written by then
BEFORE_A_CHECKPOINT = (*BEFORE_STEP_1, "loss.png")
REPLACED = ("model.safetensors", *BEFORE_A_CHECKPOINT)  # what is written beside its place first, under a hidden name


@contextlib.contextmanager
def run_folder(wanted: str | None, *, preset: str) -> Iterator[Path]:
    """The folder `wanted`, or else runs/PRESET, runs/PRESET-2, …: empty but for its train.log, and this run's alone.

    What was made of it vanishes again if the run ends before its first step. Raises ValueError for a folder that is
    taken, OSError for one that can't be made.
    """
    with contextlib.ExitStack() as stack:
        out, made = _claim(Path(wanted or f"runs/{preset}"), stack, numbered=wanted is None)
        try:
            yield out
        except BaseException:
            metrics = out / "metrics.jsonl"
            if not metrics.exists() or metrics.stat().st_size == 0:
                terminal.configure_logging()  # lets go of train.log
                _delete(out, BEFORE_STEP_1)
                stack.close()  # takes the lock away
                for folder in made:
                    with contextlib.suppress(OSError):  # somebody else has put something there
                        folder.rmdir()
            raise


def _claim(wanted: Path, stack: contextlib.ExitStack, *, numbered: bool) -> tuple[Path, list[Path]]:
    """`wanted`, or the first free of wanted-2, wanted-3, …; and the folders that had to be made, innermost first."""
    for number in range(1, 10_000 if numbered else 2):
        out = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        made = [folder for folder in (out, *out.parents) if not folder.exists()]
        with contextlib.suppress(FileExistsError):
            out.mkdir(parents=True, exist_ok=not numbered)
            if _is_empty(out):
                stack.enter_context(held(out))  # of two runs started at once one gets it
                if _is_empty(out):
                    (out / "train.log").touch()
                    return out, made
    raise ValueError(f"--out {wanted} is there already and not empty: choose another folder, or --resume what it holds")


def _is_empty(folder: Path) -> bool:
    return all(path.name == LOCK for path in folder.iterdir())


@contextlib.contextmanager
def held(run: Path) -> Iterator[None]:
    """No second process may train in this folder. Raises ValueError, naming the process that does.

    The system itself lets go of the lock when its process dies: what a dead one wrote into the file is of no account.
    """
    import filelock

    path = run / LOCK
    lock = filelock.FileLock(path, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        holder = path.read_text(errors="replace").strip() or "another process"
        raise ValueError(f"{run} is in use by {holder}: wait for it, stop it, or choose another --out") from None
    if earlier := path.read_text(errors="replace").strip():
        log.info("%s held this folder and died", earlier)
    try:
        path.write_text(f"process {os.getpid()} on {platform.node()}\n")
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def clean_up(run: Path) -> None:
    """Delete what a killed process left half-written beside its files."""
    for name in REPLACED:
        for hidden in run.glob(f".{name}.*"):
            hidden.unlink()
    for hidden in run.glob(".bad-step.*"):
        shutil.rmtree(hidden)


def _delete(run: Path, names: Iterable[str]) -> None:
    for name in names:
        (run / name).unlink(missing_ok=True)
    for folder in ("tensorboard", "bad-step"):
        shutil.rmtree(run / folder, ignore_errors=True)


def forget_unsaved(run: Path) -> None:
    """Delete what a run wrote that was killed before its first checkpoint: it starts anew. Nothing else is touched."""
    clean_up(run)
    if not (run / "model.safetensors").exists():
        _delete(run, BEFORE_A_CHECKPOINT)
        with contextlib.suppress(OSError):
            (run / "checkpoints").rmdir()
