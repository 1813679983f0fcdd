"""Floor 6. Steps that may take so long and not longer, and may fail: the next ones run all the same."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NamedTuple

from nanograd.terminal import one_line

Figures = dict[str, Any]  # what a step found: goes to JSON


class Step(NamedTuple):
    """run(seconds it may take) → figures."""

    name: str
    seconds: float
    run: Callable[[float], Figures]


class Outcome(NamedTuple):
    """Of a step: 'ok', 'failed', 'too slow' or 'skipped', and why."""

    name: str
    state: str
    seconds: float
    figures: Figures
    why: str = ""


class OutOfTimeError(Exception):
    """A step's budget is used up."""


class LeftOutError(Exception):
    """A step can't be taken here: one line that says what it would need."""


def run_steps(
    steps: Sequence[Step],
    *,
    limit: float,
    tell: Callable[[Outcome], None],
    clock: Callable[[], float] = time.perf_counter,
) -> list[Outcome]:
    """All of them, in their order, in at most `limit` seconds; `tell` hears of each as it ends.

    A step that would begin after the limit is skipped; one that begins shortly before it may take what is left.
    """
    began, outcomes = clock(), list[Outcome]()
    for step in steps:
        left = limit - (clock() - began)
        outcomes.append(_run(step, min(step.seconds, left), clock))
        tell(outcomes[-1])
    return outcomes


def _run(step: Step, seconds: float, clock: Callable[[], float]) -> Outcome:
    began = clock()
    if seconds <= 0:
        return Outcome(step.name, "skipped", 0.0, {}, "no time was left")
    state, figures, why = "ok", Figures(), ""
    try:
        with alarm(seconds):
            figures = step.run(seconds)
    except OutOfTimeError:
        state, why = "too slow", f"it was stopped after {seconds:.0f} s"
    except LeftOutError as error:
        state, why = "skipped", str(error)
    except Exception as error:  # whatever a GPU, a driver or a kernel that never met one comes up with
        state, why = "failed", f"{type(error).__name__}: {one_line(error)}"
    return Outcome(step.name, state, clock() - began, figures, why)


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise OutOfTimeError in this block when the time is up, as soon as Python has its turn: after a GPU's answer."""
    if not hasattr(signal, "setitimer"):  # Windows: budgets are only wishes there
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
