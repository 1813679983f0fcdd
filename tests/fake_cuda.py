"""The stand-in's streams, events, pinned memory, memory pools and CUDA graphs: what tests/fake_cupy.py has as `cuda`.

Work on a stream is done at once, but copies between host and device that need not wait are done as late as CUDA allows:
when an event recorded behind them is waited for. So a pinned buffer that is written again too early, or an array
that is read before its copy has come, gives wrong numbers here too.

While a stream is captured nothing is done: every launch is noted, new arrays hold zeros. What CUDA or CuPy refuse in
a capture (a copy between host and device, a wait, memory that is not of a pool of its own) is refused.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

counts: Counter[str] = Counter()  # "sync", "h2d", "launch", "event", "graph", "allocation", …
Action = Callable[[], Any]


class CaptureError(RuntimeError):
    """What cudaErrorStreamCaptureUnsupported is to CuPy."""


class Event:
    """A place in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.before: list[Copy] = []

    def record(self, stream: "Stream | None" = None) -> None:
        self.at = time.perf_counter()
        self.before = list((stream or get_current_stream()).copies)

    def synchronize(self) -> None:
        refuse("a wait for an event")
        counts["event"] += 1
        finish(self.before)
        for copy in self.before:
            copy.is_known = True

    @property
    def done(self) -> bool:
        return all(copy.is_done for copy in self.before)


class Copy:
    """A copy between host and device that is under way."""

    def __init__(self, action: Action, source: Any) -> None:
        self.action, self.source = action, source
        self.is_done = self.is_known = False  # known: the host has waited for it

    def finish(self) -> None:
        if not self.is_done:
            self.is_done = True
            self.action()


def finish(copies: list[Copy]) -> None:
    for copy in copies:
        copy.finish()


class Stream:
    """`with stream:` or `stream.use()` makes it the current one."""

    null: "Stream"

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None:
        self.copies: list[Copy] = []
        self.ptr, self.is_legacy = id(self), null

    def __enter__(self) -> "Stream":
        _streams.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _streams.remove(self)

    def use(self) -> "Stream":
        _streams[0] = self
        return self

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        finish(event.before)  # as this stream does its work at once

    def synchronize(self) -> None:
        refuse("a wait for a stream")
        counts["sync"] += 1
        finish(self.copies)

    def begin_capture(self, mode: Any = None) -> None:
        global _capture
        if self.is_legacy:
            raise CaptureError("cudaErrorStreamCaptureUnsupported: the legacy stream")
        _capture = []

    def end_capture(self) -> "Graph":
        global _capture
        actions, _capture = _capture, None
        if actions is None:
            raise CaptureError("cudaErrorIllegalState: this stream is not captured")
        return Graph(actions)

    def is_capturing(self) -> bool:
        return _capture is not None

    def enqueue_copy(self, action: Action, source: Any = None) -> None:
        """Done as late as possible. Until the host has waited for it, it may not write to the source again."""
        self.copies = [copy for copy in self.copies if not copy.is_known]
        if source is not None and any(copy.source is source for copy in self.copies):
            raise RuntimeError("pinned memory was written while a copy from it may have been under way")
        self.copies.append(Copy(action, source))


class Graph:
    """The launches of a capture, with the numbers and places of their arguments as they were."""

    def __init__(self, actions: list[Action]) -> None:
        self.actions = actions

    def launch(self, stream: Stream | None = None) -> None:
        counts["graph"] += 1
        with np.errstate(all="ignore"):
            for action in self.actions:
                action()


class MemoryPool:
    """Counts what is taken from it. Memory that was freed is taken again first."""

    def __init__(self, allocator: Any = None) -> None:
        self.taken = 0

    def malloc(self, size: int) -> Any:
        self.taken += size
        return self

    def total_bytes(self) -> int:
        return self.taken

    def free_all_blocks(self) -> None:
        """Nothing is kept here."""


def get_elapsed_time(start: Event, stop: Event) -> float:
    """Milliseconds."""
    return (stop.at - start.at) * 1e3


@contextlib.contextmanager
def using_allocator(allocator: Any = None) -> Iterator[None]:
    _allocators.append(allocator)
    try:
        yield
    finally:
        _allocators.pop()


def get_current_stream() -> Stream:
    return _streams[-1]


def capturing() -> bool:
    return _capture is not None


def refuse(what: str) -> None:
    if _capture is not None:
        raise CaptureError(f"cudaErrorStreamCaptureUnsupported: {what}")


def enqueue(action: Action) -> None:
    """Something that changes memory in place: now, or whenever the graph is launched."""
    counts["launch"] += _capture is None
    if _capture is None:
        action()
    else:
        _capture.append(action)


def fresh(result: np.ndarray, again: Callable[[], Any], *, filled: bool) -> None:
    """A launch whose `result` lies in new memory; `again` computes it once more, for a replay."""
    counts["launch"] += filled and _capture is None
    counts["allocation"] += _capture is None
    if _capture is None:
        return
    if _allocators[-1] is None:
        raise CaptureError("memory is taken from the common pool: whoever gets it next writes into the graph's arrays")
    _allocators[-1](result.nbytes)
    result[...] = 0  # and it stays where it is as long as the graph: so does the pool's memory
    _capture.append((lambda: np.copyto(result, again(), casting="unsafe")) if filled else (lambda: result))


def empty_pinned(shape: Any, dtype: Any = float, order: str = "C") -> np.ndarray:
    array = np.empty(shape, dtype, order=order)
    _pinned.append(array)
    return array


def is_pinned(array: np.ndarray) -> bool:
    return any(np.may_share_memory(array, pinned) for pinned in _pinned)


def forget() -> None:
    """What one test leaves is not the next one's."""
    global _capture
    _capture = None
    _streams[:], _allocators[:], _pinned[:] = [Stream.null], [None], []


Stream.null = Stream(null=True)
_streams = [Stream.null]
_allocators: list[Any] = [None]
_pinned: list[np.ndarray] = []
_capture: list[Action] | None = None
