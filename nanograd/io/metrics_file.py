"""Floor 5. metrics.jsonl: a line for each step, cut back to a checkpoint's place when a run is resumed."""

from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from pre_process.files import naming_file


class MetricsFile:
    """Opened at byte `position`: what stands behind it is of steps that the resumed run takes again, and goes.

    Raises ValueError if the file has become shorter than that, or another one.
    """

    def __init__(self, path: Path, position: int = 0) -> None:
        self.path, self.position = path, position
        with naming_file(path):
            self._file = path.open("r+b" if position else "wb")
            if position:
                self._file.seek(position - 1)
                if self._file.read(1) != b"\n":
                    self._file.close()
                    raise ValueError(f"{path} was changed: it has no line that ends at byte {position:,}, as it had")
                self._file.truncate(position)

    def write(self, record: dict[str, Any]) -> None:
        """Append a line, so that whoever reads along sees it. Raises OSError."""
        line = msgspec.json.encode(record) + b"\n"
        with naming_file(self.path):
            self._file.write(line)
            self._file.flush()
        self.position += len(line)

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with naming_file(self.path):  # a line that found no room on the disk is tried once more
            self._file.close()
