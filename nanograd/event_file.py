"""Floor 5. Metrics for TensorBoard, written by the library tensorboardX."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

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

    A resumed run begins another file there; TensorBoard drops what the first one had from that step on.
    Raises ValueError where tensorboardX isn't installed.
    """

    def __init__(self, run: Path, *, wanted: bool, first_step: int = 0) -> None:
        self._writer: Any = None
        if wanted:
            check_installed()
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(run / FOLDER), purge_step=first_step + 1 if first_step else None)

    def __enter__(self) -> "EventFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer:
            self._writer.close()

    def add(self, record: Mapping[str, Any]) -> None:
        """One scalar for each figure that the record has; alerts as text."""
        if not self._writer:
            return
        for key, tag in TAGS.items():
            if (value := record.get(key)) is not None and math.isfinite(value):
                self._writer.add_scalar(tag, value, record["step"])
        for key in ("loss_alert", "speed_alert"):
            if key in record:
                self._writer.add_text("alerts", record[key], record["step"])


def check_installed() -> None:
    """Raise ValueError, before hours of training, where --tensorboard can't be had."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise ValueError("--tensorboard needs a library: pip install 'nanograd[tensorboard]'") from None
