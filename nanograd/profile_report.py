"""Floor 5. What a profile (nanograd/profile.py) found: as a table, and as a timeline for https://ui.perfetto.dev."""

import io
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nanograd import backend
from pre_process.files import write_atomic

Kind = Literal["step", "part", "forward", "backward", "again"]  # again: a forward that runs inside a backward
PASS = {"forward": "fwd", "backward": "bwd", "again": "again"}
MB, GIGA, MS = 1e6, 1e9, 1e3


@dataclass(slots=True)
class Span:
    """From `start` to `end`, in seconds of time.perf_counter."""

    name: str
    kind: Kind
    lane: str
    start: float
    end: float = 0.0
    inside: float = 0.0  # seconds of the spans directly inside this one
    flops: int = 0
    made: int = 0  # bytes of the arrays it made and handed out
    kept: int = 0  # bytes of those that its backward will read, unless another operation had kept them already
    fell_back: bool = False  # the formula ran although there are twins
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From start to end."""
        return self.end - self.start

    @property
    def rate(self) -> float:
        """GFLOP/s."""
        return self.flops / GIGA / self.seconds if self.seconds else 0.0

    @property
    def float32_on_cpu(self) -> bool:
        """Whether the machine's product peak is a measure for it."""
        return any(text.startswith("float32") for text in self.details.get("inputs", ()))


@dataclass(slots=True)
class Row:
    """All spans of one name and kind, added up."""

    name: str
    kind: Kind
    calls: int = 0
    seconds: float = 0.0  # their own: without the spans inside them
    flops: int = 0
    made: int = 0
    kept: int = 0
    fell_back: bool = False
    comparable: bool = False  # with the product peak

    def add(self, span: Span) -> None:
        """One span more."""
        self.calls += 1
        self.seconds += span.seconds - span.inside
        self.flops += span.flops
        self.made += span.made
        self.kept += span.kept
        self.fell_back |= span.fell_back
        self.comparable |= span.float32_on_cpu and span.flops > 0


class Report:
    """What was measured.

    spans   in the order in which they ended
    memory  (seconds, bytes by use) whenever an operation's array came or went; the uses are kept (for backward),
            passing (any other result of a forward) and gradient
    peak    most bytes of each use, and of "all" together
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.memory: list[tuple[float, dict[str, int]]] = []
        self.peak: Counter[str] = Counter()

    @property
    def steps(self) -> list[Span]:
        """The blocks that were measured, first to last."""
        return [span for span in self.spans if span.kind == "step"]

    @property
    def seconds(self) -> float:
        """Of all steps together."""
        return sum(step.seconds for step in self.steps)

    def rows(self) -> list[Row]:
        """The slowest first. Their seconds add up to `seconds`."""
        rows: dict[tuple[str, str], Row] = {}
        for span in self.spans:
            is_operation = span.kind in PASS
            name = span.name if is_operation or not span.inside else f"{span.name}, rest"
            rows.setdefault((name, span.kind), Row(name, span.kind)).add(span)
        return sorted(rows.values(), key=lambda row: -row.seconds)

    def table(self, product_peak: float | None = None) -> Any:
        """A rich table, 80 columns wide, of one step on average.

        product_peak  GFLOP/s that this machine's products reach (nanograd.kernels.cpu.peak), if that is to be compared;
                      measured beside a busy neighbour it may be less than what an operation reached, which then counts
        """
        from rich import box
        from rich.table import Table

        if product_peak is not None:
            product_peak = max([product_peak, *(span.rate for span in self.spans if span.float32_on_cpu)])
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, show_footer=True)
        table.title, table.title_justify = self.title(), "left"
        table.caption, table.caption_justify = "\n".join(self._notes(product_peak)), "left"
        whole = self._cells(self._whole(), product_peak)
        for heading, total in zip(HEADINGS, whole, strict=True):
            table.add_column(heading, total, justify="left" if heading in LEFT else "right", no_wrap=True)
        for row in self.rows():
            table.add_row(*self._cells(row, product_peak))
        return table

    def title(self) -> str:
        """How much was measured."""
        n = max(1, len(self.steps))
        return f"where a step goes: {n} measured, {MS * self.seconds / n:,.1f} ms each"

    def _cells(self, row: Row, product_peak: float | None) -> Iterator[str]:
        """A line of the table, of one step. What does not apply stays empty."""
        n, rate = max(1, len(self.steps)), row.flops / GIGA / row.seconds if row.flops and row.seconds else 0.0
        per_step = MS * self.seconds / n
        yield row.name + ("*" if row.fell_back else "")
        yield PASS.get(row.kind, "")
        yield f"{row.calls / n:,.4g}" if row.calls else ""
        yield f"{MS * row.seconds / n:,.{1 if per_step >= 100 else 2}f}"
        yield f"{100 * row.seconds / self.seconds:.{1 if row.calls else 0}f}%" if self.seconds else ""
        yield f"{row.flops / GIGA / n:,.1f}" if row.flops else ""
        yield f"{rate:,.0f}" if rate else ""
        yield f"{rate / product_peak:.0%}" if rate and product_peak and row.comparable else ""
        yield f"{row.made / MB / n:,.1f}" if row.made else ""
        yield f"{row.kept / MB / n:,.1f}" if row.kept else ""

    def _whole(self) -> Row:
        flops, made, kept = (sum(getattr(span, name) for span in self.spans) for name in ("flops", "made", "kept"))
        comparable = any(row.comparable for row in self.rows())
        return Row("all", "step", seconds=self.seconds, flops=flops, made=made, kept=kept, comparable=comparable)

    def _notes(self, product_peak: float | None) -> Iterator[str]:
        yield "rest: Python between operations; in backward also the adding up of gradients"
        if any(row.fell_back for row in self.rows()):
            yield "*: the formula ran, because no twin takes these arrays and settings"
        if product_peak is not None:
            yield f"of peak: of {product_peak:,.0f} GFLOP/s, the most that matrix products reached"
        peak = {use: f"{self.peak[use] / MB:,.1f} MB" for use in ("kept", "all")}
        yield f"memory at most: {peak['kept']} kept for backward, {peak['all']} with other results"

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=max(80, shutil.get_terminal_size((100, 0)).columns)).print(self.table(measured_peak()))
        return text.getvalue()

    def write_trace(self, path: str | Path) -> None:
        """Write a timeline in Chrome's trace format, in one step. Raises OSError."""
        trace = {"displayTimeUnit": "ms", "traceEvents": list(self._events())}
        write_atomic(Path(path), json.dumps(trace, allow_nan=False).encode())

    def _events(self) -> Iterator[dict[str, Any]]:
        """Complete events (X) in a lane each, a counter (C) of bytes, and the lanes' names (M); times in µs.

        Source: Trace Event Format, Google, 2016.
        """
        spans = sorted(self.spans, key=lambda span: span.start)
        lanes = {lane: i for i, lane in enumerate(dict.fromkeys(span.lane for span in spans))}
        origin = min((span.start for span in spans), default=0.0)
        for lane, i in lanes.items():
            yield {"ph": "M", "name": "thread_name", "pid": 0, "tid": i, "args": {"name": lane}}
            yield {"ph": "M", "name": "thread_sort_index", "pid": 0, "tid": i, "args": {"sort_index": i}}
        for span in spans:
            times = {"ts": 1e6 * (span.start - origin), "dur": 1e6 * span.seconds}
            where = {"ph": "X", "pid": 0, "tid": lanes[span.lane], "cat": span.kind}
            yield {"name": span.name, **where, **times, "args": _arguments(span)}
        for seconds, use in self.memory:
            yield {"name": "bytes", "ph": "C", "pid": 0, "ts": 1e6 * (seconds - origin), "args": use}


HEADINGS = "operation", "pass", "calls", "ms", "share", "GFLOP", "GFLOP\n/s", "of\npeak", "made\nMB", "kept\nMB"
LEFT = "operation", "pass"


def measured_peak() -> float | None:
    """GFLOP/s of this machine's products, measured now; None while the twins are off, whose products they are."""
    if not backend.kernels_enabled():
        return None
    from nanograd.kernels.cpu.peak import product_peak

    return product_peak()


def _arguments(span: Span) -> dict[str, Any]:
    """What a click on a span shows."""
    figures: dict[str, Any] = dict(span.details)
    if span.flops:
        figures |= {"GFLOP": span.flops / GIGA, "GFLOP/s": span.rate}
    sizes = {"made MB": span.made / MB, "kept MB": span.kept / MB}
    return figures | {name: size for name, size in sizes.items() if size}
