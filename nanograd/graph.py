"""Floor 5. CUDA graphs: launches that are recorded once, and from then on repeated by a single call.

A launch costs the host some microseconds; a small model's step is hundreds of kernels that take less than that. What is
recorded are places in memory and numbers as they were, so what changes from call to call has to be in device memory,
always at the same place, and memory that is used on the way must belong to nobody else afterwards: it comes from a
pool of its own, as in PyTorch (Nguyen et al., "Accelerating PyTorch with CUDA graphs", 2021).
"""

import contextlib
from collections.abc import Callable
from typing import Any

from nanograd.backend import ArrayModule

WARM_UP = 2  # calls as they are: they load kernels, choose algorithms and fill the pool, none of which can be recorded


class CaptureRefusedError(RuntimeError):
    """Something in the work can't be recorded: one line that says what CUDA or CuPy say about it."""


class Recorded:
    """Work whose later calls are one launch each.

        graph = Recorded(xp, pool)
        graph(work)     # twice as it is, then recorded and launched, then launched without a look at `work`

    pool  cupy.cuda.MemoryPool; several graphs may share one if nothing of it is needed from one call to the next
    """

    def __init__(self, xp: ArrayModule, pool: Any) -> None:
        self.xp, self.pool, self.calls = xp, pool, 0
        self.graph: Any = None

    def __call__(self, work: Callable[[], None]) -> bool:
        """Do it on the current stream, which must not be the legacy one; whether that was a launch of what lay ready.

        Raises CaptureRefusedError, when recording fails: nothing has been done then on the device.
        """
        lay_ready = self.graph is not None
        if not lay_ready and self.calls >= WARM_UP:
            self.graph = self._record(work)
        self.calls += 1
        if self.graph is not None:
            self.graph.launch()
        else:
            with self.xp.cuda.using_allocator(self.pool.malloc):
                work()
        return lay_ready

    def _record(self, work: Callable[[], None]) -> Any:
        stream = self.xp.cuda.get_current_stream()
        stream.begin_capture()
        try:
            with self.xp.cuda.using_allocator(self.pool.malloc):
                work()
            return stream.end_capture()
        except BaseException as error:  # whatever it is: on a stream that is still captured nothing can be saved
            with contextlib.suppress(RuntimeError):
                stream.end_capture()
            if isinstance(error, RuntimeError):  # CuPy's own, and those of CUDA's libraries, are all of this kind
                raise CaptureRefusedError(" ".join(str(error).split())) from error
            raise
