"""Floor 5. Writing beside the training: one job at a time, in a thread of its own."""

import threading
from collections.abc import Callable
from types import TracebackType


class BackgroundWriter:
    """Runs jobs one after the other. What a job dies of is kept until somebody asks for it: `error`.

    As a context manager it waits for the last job, unless the program was told to leave at once (KeyboardInterrupt):
    then the job dies with the process, at any point, as in a power cut.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._errors: list[Exception] = []

    def submit(self, job: Callable[[], None]) -> None:
        """Start `job`, once the one before has ended: disks that are slower than training slow it down."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), name="checkpoint writer", daemon=True)
        self._thread.start()

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:
            self._errors.append(error)

    def wait(self) -> None:
        """Until nothing is being written any more."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def errors(self) -> list[Exception]:
        """What has gone wrong since somebody last asked."""
        errors, self._errors = self._errors, []
        return errors

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, KeyboardInterrupt):
            self.wait()
