"""Floor 5. What the commands share: one-line errors and exit codes, the log file, progress, a clean Ctrl-C."""

import contextlib
import errno
import io
import logging
import logging.config
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from nanograd import backend
from pre_process.terminal import hear_ctrl_c

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Main = Callable[[Sequence[str] | None], int | None]
Progress = Callable[[int, int], None]  # (done, total)


def run(main: Main, argv: Sequence[str] | None = None) -> int:
    """Call a command's `main` and turn what went wrong into one line on standard error and an exit code.

    0 done, 2 bad input (ValueError, OSError) or too little memory, 128 + signal number after Ctrl-C (130), SIGTERM
    (143), or when the reader of our output has left, as `| head` does (141).
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # half a prompt is no reason to lose a text
    before = signal.signal(signal.SIGTERM, _interrupt)
    hear_ctrl_c()
    try:
        code = main(argv) or 0
        if sys.stdout:  # None where the caller has closed it
            sys.stdout.flush()
        return code
    except KeyboardInterrupt as stop:
        print("interrupted", file=sys.stderr)
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):  # what they still hold is written when the program ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 128 + signal.SIGPIPE
    except (ValueError, OSError, MemoryError) as error:
        log.debug("the command failed", exc_info=error)
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Let SIGTERM clean up as Ctrl-C does."""
    raise KeyboardInterrupt(number)


def one_line(error: BaseException) -> str:
    """What an exception says, without line breaks; an OSError says what failed and where."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}{_free_space(error)}"
    if isinstance(error, MemoryError):
        return f"not enough memory: {str(error) or 'lower --batch-size, --context-length or --d-model'}"
    return " ".join(str(error).split())


def _free_space(error: OSError) -> str:
    if error.errno != errno.ENOSPC or not error.filename:
        return ""
    folder = next(parent for parent in Path(error.filename).absolute().parents if parent.exists())
    return f" ({shutil.disk_usage(folder).free / 1e6:,.1f} MB free)"


def configure_logging(log_file: str | Path = os.devnull) -> None:
    """Apply logging.conf: warnings to standard error, everything from INFO up to `log_file`."""
    here = Path(__file__).parent
    path = next(p for p in (here / "logging.conf", here.parent / "logging.conf") if p.exists())  # installed, or a clone
    literal = repr(str(log_file)).replace("%", "%%")  # the file's args are read as Python, after interpolation
    logging.raiseExceptions = False  # a log that can't be written must not bury the one line that says why
    logging.config.fileConfig(path, defaults={"log_file": literal}, disable_existing_loggers=False)


def chosen_device(wanted: str) -> str:
    """The device that `--device` names, where this thread works from now on; what auto means is said in one line.

    Raises DeviceError if it can't be used.
    """
    device = wanted
    if wanted == "auto":
        device, why = backend.choose_device()
        console().print(f"device: {device} ({why})", markup=False, soft_wrap=True)
    backend.check_device(device)
    backend.work_on(device)
    return device


def console() -> Any:
    """A rich console on standard error: standard output is for results. Nobody listening is no reason to stop."""
    from rich.console import Console

    class PatientConsole(Console):
        def on_broken_pipe(self) -> None:  # rich would end the program
            self.quiet = True

    return PatientConsole(stderr=True, highlight=False)


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """Yield `update(done, total)`, shown as a bar on a terminal; elsewhere `what` is printed once, with its time."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    screen, started = console(), time.perf_counter()
    columns = TextColumn(what), BarColumn(), TimeRemainingColumn()
    with Bar(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
    screen.print(f"{what}: {time.perf_counter() - started:.1f} s")


@contextlib.contextmanager
def save_requests_ignored() -> Iterator[None]:
    """Inside the block SIGUSR1, which asks a training run to save, does not end a process that has nothing to save."""
    if not hasattr(signal, "SIGUSR1"):  # Windows
        yield
        return
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


class StopAskedError(Exception):
    """A signal came in the middle of something that can be left out: see StopSignal.unless_stopped."""


class StopSignal:
    """Inside the block the first Ctrl-C or SIGTERM only sets `exit_code`; the second one stops at once.

    exit_code    128 + number of the signal, once one has come
    save_wanted  SIGUSR1 has come: save, and go on
    """

    def __init__(self) -> None:
        self.exit_code, self.save_wanted = 0, False

    def __enter__(self) -> "StopSignal":
        self._before = {number: signal.signal(number, self._received) for number in (signal.SIGINT, signal.SIGTERM)}
        if hasattr(signal, "SIGUSR1"):  # not on Windows
            self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._save)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def unless_stopped(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, one by one. Raises StopAskedError in their midst once a signal has come."""
        for item in items:
            if self.exit_code:
                raise StopAskedError
            yield item

    def _save(self, number: int, frame: FrameType | None) -> None:
        self.save_wanted = True

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self.exit_code:
            raise KeyboardInterrupt(number)
        self.exit_code = 128 + number
        os.write(2, b"\nfinishing this step and saving; a second signal stops at once\n")  # print() may be at work


def peak_memory_mb() -> float:
    """Most memory this process has held so far, in MB (10⁶ bytes); 0 where the system does not tell."""
    with contextlib.suppress(OSError):  # Linux: what getrusage says there begins with the peak of whoever started us
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
