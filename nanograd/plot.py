"""Floor 6. Pictures of runs: python -m nanograd.plot RUN [RUN …] --out FILE.png"""

import csv
import gc
import io
import math
import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from nanograd import backend, terminal
from nanograd.config import leaves, parse_flags, read_toml
from nanograd.io.checkpoint import load_model
from pre_process.files import write_atomic

ABOUT = (
    "Draw RUN/loss.png from metrics.jsonl, or several runs in one picture, told apart by the settings that differ; "
    "with --attention TEXT also RUN/attention.png, who looks at whom in TEXT, and with --csv the numbers as a table."
)
Axis = Literal["step", "tokens", "seconds"]
MOST_SETTINGS = 4  # that a legend names for one run


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving average; near the ends the window shrinks, so a constant stays that constant everywhere.

    What is no number is left out of the averages; where nothing else is near, the result is NaN.
    """
    kernel, known = np.ones(min(window, len(values))), np.isfinite(values)
    total = np.convolve(np.where(known, values, 0), kernel, mode="same")
    count = np.convolve(known, kernel, mode="same")
    averages: np.ndarray = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0.5)
    return averages


def read_metrics(run: Path) -> Iterator[dict[str, Any]]:
    """The records of metrics.jsonl, one by one: a long run has many, and training reads them now and then.

    A last line that was cut off in the middle is left out. Raises ValueError.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{run} holds no metrics.jsonl: name the run folder that nanograd.train printed")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = msgspec.json.decode(line, type=dict[str, Any])
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path} is damaged: {error}") from None
            if not isinstance(record.get("step"), int) or not isinstance(record.get("loss", ""), int | float | None):
                raise ValueError(f"{path} is damaged: line {number} is not that of a step")
            yield record


def draw_loss(run: Path) -> Path:
    """Write RUN/loss.png: training loss (each step and smoothed), validation loss, the unigram model as a yardstick."""
    return draw_runs([run], run / "loss.png")


def draw_runs(runs: Sequence[Path], path: Path, *, x: Axis = "step") -> Path:
    """Write the loss curves of one run or of several. Raises ValueError for a run without metrics."""
    from matplotlib.figure import Figure

    curves = [_curves(run, x) for run in runs]
    labels = [""] if len(runs) == 1 else name_runs(runs)
    figure = Figure(figsize=(8, 4.5) if len(runs) == 1 else (9, 6), layout="constrained")
    title = runs[0].resolve().name if len(runs) == 1 else ""
    axes = figure.add_subplot(xlabel=x, ylabel="loss (nats per token)", title=title)
    for number, (found, label) in enumerate(zip(curves, labels, strict=True)):
        _draw_run(axes, found, label, f"C{number % 10}")
    for unigram in sorted({found.unigram for found in curves if found.unigram is not None}):
        axes.axhline(unigram, color="gray", linestyle=":", label=f"unigram model, {unigram:.2f}")
    axes.grid(alpha=0.3)
    if len(runs) == 1:
        axes.legend()
    else:
        axes.plot([], [], color="gray", linewidth=1, label="without dots: training, smoothed")
        figure.legend(loc="outside lower center", fontsize=9)  # however many runs there are
    return _write(figure, path)


class Curves(NamedTuple):
    """Of one run: where each step stands on the x axis and its loss; the same of each validation."""

    at: np.ndarray
    loss: np.ndarray
    val_at: np.ndarray
    val_loss: np.ndarray
    unigram: float | None


def _curves(run: Path, x: Axis) -> Curves:
    at, loss, val_at, val_loss, unigram = array("d"), array("d"), array("d"), array("d"), None
    for record in read_metrics(run):
        if not at and x not in record:
            raise ValueError(f"{run / 'metrics.jsonl'} says nothing of {x!r}")
        at.append(_number(record.get(x)))
        loss.append(_number(record["loss"]))
        if record.get("val_loss") is not None:
            val_at.append(at[-1])
            val_loss.append(_number(record["val_loss"]))
            unigram = record.get("unigram_loss")
    if not at:
        raise ValueError(f"{run / 'metrics.jsonl'} has no complete line yet")
    return Curves(np.array(at), np.array(loss), np.array(val_at), np.array(val_loss), unigram)


def _number(x: float | None) -> float:
    """None stands for what is no number."""
    return math.nan if x is None else x


def _draw_run(axes: Any, found: Curves, label: str, color: str) -> None:
    """Training in the run's colour; validation in the same, dotted, or for a single run in another."""
    smoothed = smooth(found.loss, max(1, len(found.at) // 40))
    axes.plot(found.at, found.loss, color=color, alpha=0.12 if label else 0.25, linewidth=0.8)
    said = f"training, {found.loss[-1]:.2f}" if not label else None
    axes.plot(found.at, smoothed, color=color, label=said, linewidth=1 if label else 1.5)
    if len(found.val_at):
        last = f"validation, {found.val_loss[-1]:.2f}"
        style = {"color": color if label else "C1", "markersize": 4 if label else 6}
        axes.plot(found.val_at, found.val_loss, "o-", label=f"{label}: {last}" if label else last, **style)
    elif label:
        axes.plot([], [], color=color, label=f"{label}: training, {smoothed[-1]:.2f}")


def name_runs(runs: Sequence[Path]) -> list[str]:
    """A name for each run: its folder and those settings that are not the same in all."""
    settings = [_settings(run) for run in runs]
    keys = [key for key in dict.fromkeys(key for s in settings for key in s)
            if len({str(s.get(key, "–")) for s in settings}) > 1]  # fmt: skip
    names = []
    for run, found in zip(runs, settings, strict=True):
        said = [f"{key.rpartition('.')[2]} {found.get(key, '–')}" for key in keys[:MOST_SETTINGS]]
        more = [f"{len(keys) - MOST_SETTINGS} more"] if len(keys) > MOST_SETTINGS else []
        names.append(", ".join([run.resolve().name, *said, *more]))
    return names


def _settings(run: Path) -> dict[str, Any]:
    path = run / "config.toml"
    return dict(leaves(read_toml(path))) if path.is_file() else {}


def draw_attention(weights: np.ndarray, tokens: Sequence[str], path: Path) -> Path:
    """Write a grid of heat maps, a row of panels per layer and a column per head.   weights (L, H, T, T) in [0, 1]"""
    from matplotlib.figure import Figure

    L, H, T, _ = weights.shape
    figure = Figure(figsize=(1.2 + 2.2 * H, 0.8 + 2.2 * L), layout="constrained")
    for layer, head in np.ndindex(L, H):
        axes = figure.add_subplot(L, H, layer * H + head + 1)
        axes.imshow(weights[layer, head], cmap="magma", vmin=0, vmax=1)
        axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=7)
        axes.set_yticks(range(T), tokens if head == 0 else [""] * T, fontsize=6)
        axes.set_xticks(range(T), tokens if layer == L - 1 else [""] * T, fontsize=6, rotation=90)
    return _write(figure, path)


def write_table(runs: Sequence[Path], path: Path) -> Path:
    """Write metrics.jsonl of each run as one CSV file (RFC 4180): a row for each step, a column for each figure."""
    rows = [{"run": run.resolve().name, **record} for run in runs for record in read_metrics(run)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, restval="")
    table.writeheader()
    table.writerows(rows)
    write_atomic(path, text.getvalue().encode())
    return path


def _write(figure: Any, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    figure.clear()
    gc.collect()  # a figure is full of cycles, so that its megabytes of pixels would wait long for a collection
    write_atomic(path, buffer.getvalue())
    return path


class PlotConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Draw the loss curves of runs, and where a model looks."""

    runs: tuple[str, ...]
    """run folders that nanograd.train made"""
    out: str = ""
    """file of the picture (default for one run: RUN/loss.png)"""
    x: Axis = "step"
    """what the curves are drawn against"""
    csv: str = ""
    """file for a table of the runs' metrics, a row for each step"""
    attention: str = ""
    """text whose attention maps are drawn, one panel for each layer and head"""
    device: str = "auto"
    """where the model of --attention runs: cpu, cuda, cuda:N, or auto: a GPU if one can be used, else the CPU"""


def attention_maps(run: Path, text: str, *, device: str = "cpu") -> tuple[np.ndarray, list[str]]:
    """Weights (L, H, T, T) of the run's model on `text`, and its T tokens as they read. Raises ValueError."""
    model, tokenizer = load_model(run, device=device)
    ids = tokenizer.encode(text)
    if not 0 < len(ids) <= model.config.context_length:
        raise ValueError(f"--attention: {len(ids)} tokens, give 1 to {model.config.context_length}")
    found = model.attention_weights(backend.to_device(ids[None], device))
    weights = np.stack([backend.to_host(w[0]) for w in found])
    return weights, [tokenizer.decode(ids[i : i + 1]).replace("$", r"\$") for i in range(len(ids))]


def main(argv: Sequence[str] | None = None) -> None:
    """Draw and print the paths. Raises ValueError and OSError on bad input."""
    config = parse_flags(PlotConfig, argv, prog="python -m nanograd.plot", about=ABOUT)
    terminal.configure_logging()
    runs = [Path(run) for run in config.runs]
    if not runs:
        raise ValueError("name the run folder that nanograd.train printed, or several")
    if len(runs) > 1 and not config.out:
        raise ValueError("several runs in one picture: give --out FILE.png")
    if config.out and Path(config.out).suffix.lower() != ".png":
        raise ValueError(f"--out {config.out}: the picture is a PNG, so give a name that ends in .png")
    if config.csv and Path(config.csv).suffix.lower() != ".csv":  # RUN/metrics.jsonl, say, which would be replaced
        raise ValueError(f"--csv {config.csv}: give a name that ends in .csv")
    if len(runs) > 1 and config.attention:
        raise ValueError("--attention draws one run's model: name one run")
    print(draw_runs(runs, Path(config.out or runs[0] / "loss.png"), x=config.x))
    if config.csv:
        print(write_table(runs, Path(config.csv)))
    if config.attention:
        maps = attention_maps(runs[0], config.attention, device=terminal.chosen_device(config.device))
        print(draw_attention(*maps, runs[0] / "attention.png"))


if __name__ == "__main__":
    sys.exit(terminal.run(main))
