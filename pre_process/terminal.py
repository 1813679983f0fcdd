"""Running a command: what went wrong becomes one line on standard error, and an exit code."""

import io
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN = 40  # characters of a word


def run_command(work: Callable[[], None]) -> int:
    """Do the work of a command; returns its exit code.

    0 done, 2 after `error: …` for what the user can put right (ValueError, OSError) or too little memory, 130 after
    Ctrl-C, 141 when the reader of our output has left, as `| head` does.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # a lone surrogate is no reason to lose a text
    hear_ctrl_c()
    try:
        work()
        if sys.stdout:  # None where the caller has closed it
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what it still holds is written at the end
        return 128 + signal.SIGPIPE
    except (ValueError, OSError, MemoryError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


def hear_ctrl_c() -> None:
    """Ctrl-C raises KeyboardInterrupt again, which it did not while the command was imported (pre_process/__init__)."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def one_line(error: BaseException) -> str:
    """What an exception says, without line breaks; an OSError says where and what."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or "not enough memory"


def console() -> "Console":
    """A rich console on standard output that lets a reader leave, as `| head` does, and prints text as it is."""
    from rich.console import Console

    class PipeConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return PipeConsole(highlight=False, markup=False, emoji=False)


def printable(text: str) -> str:
    """A text without characters that would steer a terminal, or that no font shows: � for each."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def short(text: str) -> str:
    """A printable text of 40 characters at most: a "word" of some megabytes would fill the screen."""
    return printable(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")
