"""Floor 5. Where the time and the memory of a program go, operation by operation.

    with nanograd.profile.profile() as report:
        loss = model.loss(ids, targets)
        loss.backward()
    print(report)                        a table; see nanograd/profile_report.py
    report.write_trace("trace.json")     a timeline for https://ui.perfetto.dev

The program is cut into spans, one inside the other: the block itself (a "step"), its parts ("forward", "backward", or
`with nanograd.watch.part("my part")`), and in them every forward and backward of an operation. A span's own time is
what no span inside it took, so own times add up to the whole. On a GPU each operation is waited for: that makes a
program slower than it is, but every operation has its own time. Operations in other threads are not seen.
"""

import contextlib
import errno
import logging
import os
import tempfile
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nanograd import backend, terminal, watch
from nanograd.backend import Array, ArrayModule, describe
from nanograd.flops import backward_flops, forward_flops
from nanograd.primitive import Primitive
from nanograd.profile_report import Kind, Report, Span, measured_peak
from nanograd.tensor import Rule, is_recording

log = logging.getLogger(__name__)

SKIPPED, PROFILED = 2, 10  # steps of a run: in the first, memory is touched for the first time
Use = Literal["kept", "passing", "gradient"]  # of an array: see Report.memory


class Profile(Report):
    """A report that measures while it is entered as a context manager; entered again, it adds another step.

    Raises RuntimeError when entered while another profile is being taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bytes: Counter[str] = Counter(kept=0, passing=0, gradient=0)
        self._known: dict[int, tuple[weakref.ref[Any], Use]] = {}
        self._open: list[Span] = []

    def __enter__(self) -> "Profile":
        if watch.watcher is not None:
            raise RuntimeError("a profile is being taken already: leave it before another begins")
        self._thread = threading.get_ident()
        watch.watcher = self
        self._open.append(Span("step", "step", "step", time.perf_counter()))
        return self

    def __exit__(self, *_: object) -> None:
        watch.watcher = None
        self._close()

    # What the engine tells (nanograd/watch.py)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the program that has a name. A lane of the timeline, unless it is a part of a backward."""
        if threading.get_ident() != self._thread:
            yield
            return
        with self._span(name, "part", "backward" if self._in_backward() else name):
            yield

    def operation(
        self, op: Primitive, xp: ArrayModule, arrays: list[Array], settings: dict[str, Any]
    ) -> tuple[Array, Any, Rule]:
        """Run the forward in a span of its own, and have its backward do the same."""
        if threading.get_ident() != self._thread:
            return op.fastest(xp, arrays, settings)
        again = self._in_backward()
        with self._span(op.name, "again" if again else "forward", "backward" if again else "forward") as span:
            y, saved, rule = op.fastest(xp, arrays, settings)
            _wait(xp)
        twin, recording = rule is not op.formula, is_recording()
        span.fell_back = not twin and bool(op.twins.get(xp)) and backend.kernels_enabled()
        span.flops = forward_flops(op.name, arrays, settings, twin=twin, recording=recording)
        span.details = _details(arrays, settings, twin)
        span.made = self._note((y, *saved), "passing", unlike=arrays)
        if not recording or rule.backward is None:
            return y, saved, rule
        span.kept = self._keep(saved)
        once = forward_flops(op.name, arrays, settings, twin=False, recording=False)
        return y, saved, rule._replace(backward=self._timed(op.name, rule.backward, once, span))

    def _timed(self, name: str, backward: Callable[..., Any], once: int, forward: Span) -> Callable[..., Any]:
        """`backward` in a span, as long as this profile is being taken."""

        def timed(xp: ArrayModule, dy: Array, *saved: Any, **settings: Any) -> Any:
            if watch.watcher is not self or threading.get_ident() != self._thread:
                return backward(xp, dy, *saved, **settings)
            with self._span(name, "backward", "backward") as span:
                dxs = backward(xp, dy, *saved, **settings)
                _wait(xp)
            span.flops = backward_flops(name, once, settings["needs"], twin=forward.details["runs"] == "twin")
            span.fell_back, span.details = forward.fell_back, forward.details
            span.made = self._note(dxs if isinstance(dxs, tuple) else (dxs,), "gradient", unlike=[dy])
            return dxs

        return timed

    # Spans

    @contextlib.contextmanager
    def _span(self, name: str, kind: Kind, lane: str) -> Iterator[Span]:
        span = Span(name, kind, lane, time.perf_counter())
        self._open.append(span)
        try:
            yield span
        finally:
            self._close()

    def _close(self) -> None:
        span = self._open.pop()
        span.end = time.perf_counter()
        if self._open:
            self._open[-1].inside += span.end - span.start
        self.spans.append(span)

    def _in_backward(self) -> bool:
        return any(span.lane == "backward" for span in self._open)

    # Memory: an array counts from when an operation hands it out until its last owner lets go

    def _note(self, arrays: tuple[Any, ...], use: Use, *, unlike: list[Any]) -> int:
        """Count the memory behind those of `arrays` that is neither known nor that of `unlike`; returns its bytes."""
        before, made = {id(_owner(x)) for x in unlike}, 0
        for owner in map(_owner, arrays):
            is_array = hasattr(owner, "nbytes") and not isinstance(owner, np.generic)
            if is_array and id(owner) not in self._known and id(owner) not in before:
                made += owner.nbytes
                self._change(use, owner.nbytes)
                self._known[id(owner)] = weakref.ref(owner, self._forget(id(owner), owner.nbytes)), use
        return made

    def _keep(self, saved: tuple[Any, ...]) -> int:
        """Arrays that operations made and a backward will read; returns the bytes of those new among them."""
        kept = 0
        for owner in map(_owner, saved):
            ref, use = self._known.get(id(owner), (None, "kept"))
            if ref is not None and use == "passing":
                self._known[id(owner)] = ref, "kept"
                self._change("passing", -owner.nbytes)
                self._change("kept", owner.nbytes)
                kept += owner.nbytes
        return kept

    def _forget(self, key: int, size: int) -> Callable[[Any], None]:
        def forget(_: Any) -> None:
            _, use = self._known.pop(key)
            self._change(use, -size)

        return forget

    def _change(self, use: Use, size: int) -> None:
        self._bytes[use] += size
        self.memory.append((time.perf_counter(), dict(self._bytes)))
        self.peak[use] = max(self.peak[use], self._bytes[use])
        self.peak["all"] = max(self.peak["all"], self._bytes.total())


class FirstSteps:
    """The profile of a training run: of its first PROFILED steps that are typical, and then never again.

    wanted       None for no profile; else a file for the timeline, or "" for the table alone
    total_steps  of the run
    """

    def __init__(self, wanted: str | None, total_steps: int) -> None:
        self.wanted, self.first = wanted, min(SKIPPED, total_steps - 1) + 1
        self.last = min(self.first + PROFILED - 1, total_steps)
        self.profile = Profile()

    def watching(self, step: int) -> contextlib.AbstractContextManager[Any]:
        """`with first_steps.watching(1): …` for each step of the run, counted from 1."""
        measured = self.wanted is not None and self.first <= step <= self.last
        return self.profile if measured else contextlib.nullcontext()

    def finish(self, step: int, console: Any, *, last: bool) -> None:
        """After a step: if it was the last to be measured, or the last at all, say what was found."""
        if self.wanted is None or not (step == self.last or (last and self.first <= step < self.last)):
            return
        console.print(self.profile.table(measured_peak()))
        if self.wanted:
            try:
                self.profile.write_trace(self.wanted)
            except OSError as error:  # a full disk is no reason to lose the training
                log.warning("no timeline: %s", terminal.one_line(error))
            else:
                console.print(f"timeline: {self.wanted}, to be opened at https://ui.perfetto.dev", markup=False)


def check_trace_path(wanted: str | None) -> None:
    """Raise ValueError if no file can be made there, before hours of training are spent on the way to it."""
    if not wanted:
        return
    try:
        if Path(wanted).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=Path(wanted).parent):
            pass
    except OSError as error:
        raise ValueError(f"--profile {wanted}: {error.strerror}; name a file in a folder that can be written") from None


profile = Profile  # `with profile() as report` reads better in lower case


def _owner(x: Any) -> Any:
    """The array that owns the memory of `x`, which may be a view of it."""
    while (base := getattr(x, "base", None)) is not None and isinstance(base, type(x)):
        x = base
    return x


def _wait(xp: ArrayModule) -> None:
    """A GPU works on while Python goes on: without waiting, each operation would get the time of another."""
    if hasattr(xp, "cuda"):
        xp.cuda.runtime.deviceSynchronize()


def _details(arrays: list[Any], settings: dict[str, Any], twin: bool) -> dict[str, Any]:
    """In words: neither an array nor an infinity may end up in a timeline."""
    said = {name: describe(x) if hasattr(x, "dtype") else str(x) for name, x in settings.items()}
    return {"inputs": [describe(x) for x in arrays], "runs": "twin" if twin else "formula", **said}
