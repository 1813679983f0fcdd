"""Floor 5. Arrays on their way to a GPU: through pinned memory, on a stream of their own, while the GPU computes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nanograd import backend
from nanograd.backend import Array, ArrayModule

RING = 3  # sets of buffers: one is computed from, one is on its way, one is being filled
ON_THE_WAY = {np.dtype(np.int64): np.dtype(np.int32)}  # token ids and targets: half the bytes, cast on the device


class _Buffers(NamedTuple):
    """Of one array of one set."""

    pinned: np.ndarray
    device: Array


class Upload:
    """`send(arrays)` gives them on the device, as arrays that only the current stream may read, and never waits for
    the GPU, but for copies that are RING calls old.

    A plain copy from the host's ordinary memory would make the host wait until all that was launched before is done.
    """

    def __init__(self, xp: ArrayModule) -> None:
        self.xp, self.calls = xp, 0
        self.stream = xp.cuda.Stream(non_blocking=True)
        self._sets: list[dict[str, _Buffers]] = [{} for _ in range(RING)]
        self._copied = [xp.cuda.Event(disable_timing=True) for _ in range(RING)]
        self._read = [xp.cuda.Event(disable_timing=True) for _ in range(RING)]

    def send(self, arrays: Mapping[str, np.ndarray], into: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """name → host array  →  name → device array of that shape and type: a new one, or the one in `into`."""
        turn, self.calls = self.calls % RING, self.calls + 1
        copied, read, compute = self._copied[turn], self._read[turn], self.xp.cuda.get_current_stream()
        copied.synchronize()  # the pinned memory is written again
        self.stream.wait_event(read)  # and the device's
        buffers = {name: self._buffers(turn, name, array) for name, array in arrays.items()}
        for name, array in arrays.items():
            np.copyto(buffers[name].pinned, array, casting="same_kind")
            buffers[name].device.set(buffers[name].pinned, stream=self.stream)
        copied.record(self.stream)
        compute.wait_event(copied)
        there = {name: self._cast(buffers[name].device, array, into and into[name]) for name, array in arrays.items()}
        read.record(compute)
        return there

    def _buffers(self, turn: int, name: str, array: np.ndarray) -> _Buffers:
        """Of this shape; those of another one (a batch that is padded to another length) make way."""
        dtype = ON_THE_WAY.get(array.dtype, array.dtype)
        found = self._sets[turn].get(name)
        if found is None or found.pinned.shape != array.shape or found.pinned.dtype != dtype:
            self._read[turn].synchronize()
            with self.stream:  # freed memory of the computing stream may be in use there by what was launched before
                device = self.xp.empty(array.shape, dtype)
            found = self._sets[turn][name] = _Buffers(backend.empty_pinned(array.shape, dtype), device)
        return found

    def _cast(self, x: Array, like: np.ndarray, into: Array | None) -> Array:
        if into is None:
            return x.astype(like.dtype)
        into[...] = x
        return into


class Told:
    """Numbers that come back: `tell` has a copy begun, and the answer waits for that copy when it is asked."""

    def __init__(self, xp: ArrayModule, size: int) -> None:
        self.calls, self._answers = 0, [backend.empty_pinned((size,), np.float64) for _ in range(2)]
        self._arrived = [xp.cuda.Event(disable_timing=True) for _ in range(2)]

    def tell(self, numbers: Array) -> "Answer":
        """Send (size,) float64 home. The answer is good until `tell` was called two more times."""
        turn, self.calls = self.calls % 2, self.calls + 1
        numbers.get(out=self._answers[turn], blocking=False)
        self._arrived[turn].record()
        return Answer(self._answers[turn], self._arrived[turn])


class Answer(NamedTuple):
    """What `Told.tell` has sent."""

    pinned: np.ndarray
    arrived: Any

    def wait(self) -> list[float]:
        """The numbers, as soon as the device has come that far; what was launched later goes on meanwhile."""
        self.arrived.synchronize()
        numbers: list[float] = self.pinned.tolist()
        return numbers
