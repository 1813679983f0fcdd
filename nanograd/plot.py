"""Floor 6. Pictures of a run: python -m nanograd.plot RUN"""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from nanograd import terminal
from nanograd.config import parse_flags
from nanograd.io.checkpoint import load_model
from pre_process.files import write_atomic

ABOUT = "Draw RUN/loss.png from metrics.jsonl; with --attention TEXT also RUN/attention.png, who looks at whom in TEXT."


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving average; near the ends the window shrinks, so a constant stays that constant everywhere."""
    kernel = np.ones(min(window, len(values)))
    total = np.convolve(values, kernel, mode="same")
    return total / np.convolve(np.ones(len(values)), kernel, mode="same")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl; a last line that was cut off in the middle is left out. Raises ValueError."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{run} holds no metrics.jsonl: name the run folder that nanograd.train printed")
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    try:
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def draw_loss(run: Path) -> Path:
    """Write RUN/loss.png: training loss (each step and smoothed), validation loss, the unigram model as a yardstick."""
    from matplotlib.figure import Figure

    records = read_metrics(run)
    if not records:
        raise ValueError(f"{run / 'metrics.jsonl'} has no complete line yet")
    steps, losses = (np.array([r[key] for r in records], float) for key in ("step", "loss"))
    measured = [(r["step"], r["val_loss"]) for r in records if "val_loss" in r]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss (nats per token)", title=run.resolve().name)
    axes.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth(losses, max(1, len(steps) // 40)), color="tab:blue", label=f"training, {losses[-1]:.2f}")
    if measured:
        axes.plot(*zip(*measured, strict=True), "o-", color="tab:orange", label=f"validation, {measured[-1][1]:.2f}")
    if "unigram_loss" in records[-1]:
        unigram = records[-1]["unigram_loss"]
        axes.axhline(unigram, color="gray", linestyle=":", label=f"unigram model, {unigram:.2f}")
    axes.grid(alpha=0.3)
    axes.legend()
    return _write(figure, run / "loss.png")


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


def _write(figure: Any, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomic(path, buffer.getvalue())
    return path


class PlotConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Draw a run's loss curve, and where its model looks."""

    run: str
    """run folder that nanograd.train made"""
    attention: str = ""
    """text whose attention maps are drawn, one panel for each layer and head"""


def attention_maps(run: Path, text: str) -> tuple[np.ndarray, list[str]]:
    """Weights (L, H, T, T) of the run's model on `text`, and its T tokens as they read. Raises ValueError."""
    model, tokenizer = load_model(run)
    ids = tokenizer.encode(text)
    if not 0 < len(ids) <= model.config.context_length:
        raise ValueError(f"--attention: {len(ids)} tokens, give 1 to {model.config.context_length}")
    weights = np.stack([w[0] for w in model.attention_weights(ids[None])])
    return weights, [tokenizer.decode(ids[i : i + 1]).replace("$", r"\$") for i in range(len(ids))]


def main(argv: Sequence[str] | None = None) -> None:
    """Draw and print the paths. Raises ValueError and OSError on bad input."""
    config = parse_flags(PlotConfig, argv, prog="python -m nanograd.plot", about=ABOUT)
    terminal.configure_logging()
    run = Path(config.run)
    print(draw_loss(run))
    if config.attention:
        print(draw_attention(*attention_maps(run, config.attention), run / "attention.png"))


if __name__ == "__main__":
    sys.exit(terminal.run(main))
