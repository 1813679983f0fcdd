"""Floor 5. Metrics for TensorBoard, in the messages of the library tensorboardX.

Its SummaryWriter hands them to a thread: on a full disk that dies, and the step that fills its queue waits for ever;
after kill -9 the last two minutes are missing. So the records are written here, one at a time: eight bytes of length,
their checksum, the message, its checksum (CRC-32C, masked).
Source of the format: record_writer.h of github.com/tensorflow/tensorflow.
"""

import contextlib
import logging
import math
import os
import platform
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from nanograd import terminal
from pre_process.files import naming_file

log = logging.getLogger(__name__)

FOLDER = "tensorboard"  # inside the run folder
TAGS = {
    "loss": "loss/training",
    "val_loss": "loss/validation",
    "lr": "optimizer/learning_rate",
    "grad_norm": "optimizer/gradient_norm",
    "tokens_per_second": "speed/tokens_per_second",
}


class EventFile:
    """`add(record)` puts a line of metrics.jsonl into an event file in RUN/tensorboard; nothing if not `wanted`.

    A resumed run begins another file there; TensorBoard drops what the first one had from that step on. A disk that
    fills up is told once, and training goes on without further events.
    Raises ValueError where tensorboardX isn't installed, OSError for a folder that can't be written.
    """

    def __init__(self, run: Path, *, wanted: bool, first_step: int = 0) -> None:
        self._file: IO[bytes] | None = None
        if wanted:
            check_installed()
            (run / FOLDER).mkdir(exist_ok=True)
            name = f"events.out.tfevents.{time.time():.0f}.{platform.node()}.{os.getpid()}"  # TensorBoard goes by it
            self._file = (run / FOLDER / name).open("wb", buffering=0)
            self._write(file_version="brain.Event:2")
            if first_step:
                self._write(step=first_step + 1, session_log={"status": "START"})

    def __enter__(self) -> "EventFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()

    def add(self, record: Mapping[str, Any]) -> None:
        """One scalar for each figure that the record has; alerts as text."""
        if not self._file:
            return
        from tensorboardX.summary import Summary, text

        found = {tag: record[key] for key, tag in TAGS.items() if record.get(key) is not None}
        known = [{"tag": tag, "simple_value": x} for tag, x in found.items() if math.isfinite(x)]
        alerts = [text("alerts", record[key]) for key in ("loss_alert", "speed_alert", "skipped") if key in record]
        for summary in (Summary(value=known), *alerts):
            self._write(step=record["step"], summary=summary)

    def _write(self, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        if not self._file:  # the disk was full
            return
        message = Event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(message))
        record = length + _checksum(length) + message + _checksum(message)
        try:
            with naming_file(Path(self._file.name)):
                written = self._file.write(record)
                self._file.write(record[written:])  # what did not fit then says why
        except OSError as error:
            log.warning("no more events for TensorBoard: %s; training goes on", terminal.one_line(error))
            self._file.close()
            self._file = None


def _checksum(content: bytes) -> bytes:
    from tensorboardX.record_writer import masked_crc32c

    return struct.pack("<I", masked_crc32c(content))


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """tensorboardX loads PyTorch where there is one: two seconds and 190 MB, of which nothing here is used."""
    hidden: dict[str, Any] = {} if "torch" in sys.modules else {"torch": None}
    sys.modules.update(hidden)
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def check_installed() -> None:
    """Raise ValueError, before hours of training, where --tensorboard can't be had."""
    try:
        with _without_torch():
            import tensorboardX  # noqa: F401
    except ImportError:
        raise ValueError("--tensorboard needs a library: pip install 'nanograd[tensorboard]'") from None
