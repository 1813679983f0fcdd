"""Floor 5. Saves a run beside its training: snapshots become checkpoints, one after the other, in the background."""

import errno
import logging
import shutil
from pathlib import Path
from types import TracebackType
from typing import Literal

from nanograd import terminal
from nanograd.io.background import BackgroundWriter
from nanograd.io.checkpoint import publish_weights
from nanograd.io.run_checkpoints import prune, write_checkpoint
from nanograd.io.training_state import Snapshot
from pre_process.files import sync_file

log = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes snapshots into RUN/checkpoints and the newest weights into RUN, and deletes what need not be kept.

    saved_step  of the last checkpoint that is whole on the disk; 0: none yet
    """

    def __init__(
        self,
        run: Path,
        *,
        keep: int,
        keep_every: int,
        on_error: Literal["go-on", "stop"],
        data_sha256: str,
        tokenizer_sha256: str,
        saved_step: int = 0,
    ) -> None:
        self.run, self.keep, self.keep_every, self.on_error = run, keep, keep_every, on_error
        self.data_sha256, self.tokenizer_sha256 = data_sha256, tokenizer_sha256
        self.saved_step, self._background = saved_step, BackgroundWriter()
        self._failure: Exception | None = None  # of the newest snapshot, once it has been told

    def wait(self) -> None:
        """Until the snapshot before is written and given up: before the next is taken, or two would be in memory."""
        self._background.wait()

    def save(self, snapshot: Snapshot) -> None:
        """Have it written, beside whatever follows."""
        self._failure = None
        self._background.submit(lambda: self._write(snapshot))

    def _write(self, snapshot: Snapshot) -> None:
        sync_file(self.run / "metrics.jsonl")  # first: a checkpoint counts on its lines
        state = snapshot.state
        try:
            folder = write_checkpoint(
                self.run,
                snapshot.write,
                step=state.step,
                val_loss=state.record.get("val_loss"),
                data_sha256=self.data_sha256,
                tokenizer_sha256=self.tokenizer_sha256,
            )
        except OSError as error:
            raise _with_needs(error, self.run, snapshot.nbytes) from None
        self.saved_step = state.step
        publish_weights(folder, self.run)
        prune(self.run, keep=self.keep, keep_every=self.keep_every)

    def check(self) -> None:
        """Tell what went wrong since the last look; raise it if the run should stop, or if it is a mistake of ours."""
        for error in self._background.errors():
            if not isinstance(error, OSError) or self.on_error == "stop":
                raise error
            kept = f"the checkpoint of step {self.saved_step} stays" if self.saved_step else "there is none yet"
            self._failure = error
            log.warning("no checkpoint: %s; training goes on, %s", terminal.one_line(error), kept)

    def finish(self) -> None:
        """Wait for the last checkpoint. Raises what kept it from being written: the end of a run is not lost unseen."""
        self._background.wait()
        for error in [*self._background.errors(), self._failure]:
            if error is not None:
                raise error

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._background.__exit__(kind, error, trace)


def _with_needs(error: OSError, run: Path, need: int) -> OSError:
    """A full disk is told with what is missing."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    free = shutil.disk_usage(run).free
    return OSError(
        f"{error.filename}: {error.strerror}: a checkpoint needs {need / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free"
    )
