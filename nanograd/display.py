"""Floor 5. What a training run shows while it runs: a live table; where there is no terminal, a line now and then."""

import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from nanograd import terminal
from nanograd.alerts import RunningMean

PER_SECOND = 2  # pictures of the table; a step only leaves its figures
BETWEEN_LINES = 10.0  # seconds
WIDTH = 80  # letters; a narrower terminal gets the figures in two rows


class TrainingDisplay:
    """Step, remaining time and the newest figures, by name. Elsewhere than on a terminal: a line every ten seconds.

    bytes_per_token  of the validation text, for bits per byte
    """

    def __init__(self, steps: int, *, bytes_per_token: float) -> None:
        from rich.live import Live

        self.console, self.steps, self._bytes_per_token = terminal.console(), steps, bytes_per_token
        self._record: Mapping[str, Any] = {"step": 0}
        self._smoothed, self._val_loss, self._skipped = RunningMean(), float("nan"), 0
        self._printed, self._first = time.monotonic(), (0, 0.0)  # step and time from which speed is measured
        live = {"console": self.console, "refresh_per_second": PER_SECOND, "transient": True}
        self._live = Live(get_renderable=self._table, **live) if self.console.is_terminal else None

    def __enter__(self) -> "TrainingDisplay":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self, record: Mapping[str, Any], *, val_loss: float | None, skipped: int = 0) -> None:
        """A step's line of metrics.jsonl; `val_loss` is the last one measured, `skipped` the steps not taken so far."""
        now = time.monotonic()
        if not self._record["step"]:
            self._first = record["step"], now  # without the first step, which loads and warms up
        self._record, self._skipped = record, skipped
        if "skipped" not in record and record["loss"] is not None and math.isfinite(record["loss"]):
            self._smoothed.add(record["loss"])
        self._val_loss = float("nan") if val_loss is None else val_loss
        if not self._live and now - self._printed >= BETWEEN_LINES:
            self._printed = now
            self.console.print(f"step {record['step']}/{self.steps}  " + self._line(), soft_wrap=True)

    def print(self, text: str) -> None:
        """A line above the table, taken literally."""
        self.console.print(text, markup=False, soft_wrap=self._live is None)

    def figures(self) -> dict[str, str]:
        """What there is to see, by name; a dash for what isn't known yet. Skipped steps show once there are any."""
        known = self._record
        return {
            "loss": _number(known.get("loss"), ".3f"),
            "smoothed": _number(self._smoothed.value, ".3f"),
            "validation": _number(self._val_loss, ".3f"),
            "bits/byte": _number(self._val_loss / math.log(2) / self._bytes_per_token, ".3f"),
            "gradient": _number(known.get("grad_norm"), ".2f"),
            "tokens/s": _number(known.get("tokens_per_second"), ",.0f"),
            "memory": f"{terminal.peak_memory_mb():,.0f} MB",
            "ETA": self._remaining(),
            **({"skipped": str(self._skipped)} if self._skipped else {}),
        }

    def _line(self) -> str:
        found = self.figures()
        names = {"validation": "val", "gradient": "grad"}
        said = [f"{names.get(name, name)} {found[name]}" for name in list(found)[:5]]
        skipped = [f"skipped {self._skipped}"] if self._skipped else []
        return "  ".join([*said, f"{found['tokens/s']} tok/s", found["memory"], f"ETA {found['ETA']}", *skipped])

    def _table(self) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        step, found = self._record["step"], list(self.figures().items())
        at_once = len(found) if self.console.width >= WIDTH else -(-len(found) // 2)
        progress, whole = Table.grid(padding=(0, 2)), Table.grid()
        progress.add_row(
            f"step {step:,}/{self.steps:,}", ProgressBar(total=self.steps, completed=step, width=WIDTH // 2)
        )
        whole.add_row(progress)
        for start in range(0, len(found), at_once):
            names, values = zip(*found[start : start + at_once], strict=True)
            table = Table(*names, box=None, header_style="dim", padding=(0, 2, 0, 0))
            for column in table.columns:
                column.justify, column.no_wrap = "right", True
            table.add_row(*values)
            whole.add_row(table)
        return whole

    def _remaining(self) -> str:
        done = self._record["step"] - self._first[0]
        if done < 1:
            return "–"
        minutes, seconds = divmod(
            round((time.monotonic() - self._first[1]) / done * (self.steps - self._record["step"])), 60
        )
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _number(x: float | None, style: str) -> str:
    return "–" if x is None or not math.isfinite(x) else format(x, style)
