"""Floor 5. Batches made ahead of time by threads: the same ones, since batch i depends on i alone."""

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol

from nanograd.data.batches import Batch


class Batches(Protocol):
    """Anything that makes batch `index` on demand."""

    def batch(self, index: int) -> Batch:
        """Micro-batch `index`."""
        ...


class Prefetch:
    """`batch(i)` answers at once and has batches i + 1 … i + ahead made meanwhile, one thread for each; 0: no threads.

    What goes wrong in a thread is raised here, by the `batch(i)` that asks for it. Inside `with`: at its end no thread
    is left. Threads, not processes: reading and copying let go of Python's lock.
    """

    def __init__(self, batches: Batches, *, ahead: int) -> None:
        self.batches, self.ahead = batches, ahead
        self._pool = ThreadPoolExecutor(ahead, thread_name_prefix="prefetch") if ahead else None
        self._coming: dict[int, Future[Batch]] = {}

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._coming.clear()

    def batch(self, index: int) -> Batch:
        """Micro-batch `index`, any number; those that follow are the quickest."""
        if self._pool is None:
            return self.batches.batch(index)
        wanted = range(index, index + self.ahead + 1)
        for i in self._coming.keys() - wanted:
            self._coming.pop(i).cancel()
        for i in wanted:
            if i not in self._coming:
                self._coming[i] = self._pool.submit(self.batches.batch, i)
        return self._coming.pop(index).result()
