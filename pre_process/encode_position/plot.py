"""Positions as pictures: what each of the four ways tells a model. Files end in .png, .svg or .pdf."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pre_process.encode_position.alibi import alibi_biases, alibi_slopes
from pre_process.encode_position.rotary import frequencies, turn
from pre_process.encode_position.rotary_scaling import Scaling, scaled_frequencies
from pre_process.encode_position.sinusoidal import sinusoidal
from pre_process.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DISTANT = "#1f5fa8"  # the colour of lines
_LINES = 16  # that can be told apart


def draw_sinusoidal(path: str | Path, *, context_length: int = 128, d_model: int = 64) -> None:
    """The table as a heat map, four of its columns as waves, and how alike position 0 and all others are."""
    table = sinusoidal(context_length, d_model)
    figure, (left, middle, right) = _panels(3)
    draw_table(figure, left, table, title="the table: a row is added to each token")
    pairs = _quick_to_slow(d_model // 2)
    for pair, colour in zip(pairs, _shades(len(pairs)), strict=True):
        middle.plot(table[:, 2 * pair], color=colour, label=f"column {2 * pair}")
    middle.set(
        title="some of its columns: clocks of several speeds", xlabel="position", ylabel="sin", ylim=(-1.1, 1.45)
    )
    middle.legend(loc="upper center", ncols=4, fontsize=7)
    right.plot(table @ table[context_length // 2] / (d_model / 2), color=DISTANT)
    right.set(title="how alike two rows are, by distance", xlabel="position", ylabel="cosine with the middle row")
    _save(figure, path)


def draw_learned(path: str | Path, table: np.ndarray) -> None:
    """A table (T, C) of learned vectors, and how alike each two of them are."""
    figure, (left, right) = _panels(2)
    draw_table(figure, left, table, title="the table: a row is added to each token")
    rows = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    image = right.imshow(rows @ rows.T, cmap="RdBu", vmin=-1, vmax=1, interpolation="nearest")
    right.set(title="cosine of each two rows", xlabel="position", ylabel="position")
    figure.colorbar(image, ax=right)
    _save(figure, path)


def draw_rotary(
    path: str | Path, *, d_head: int = 32, base: float = 10_000.0, scaling: Scaling | None = None, longest: int = 256
) -> None:
    """The hands of the clocks, where each number of a head points by position, and q · k by distance."""
    theta = frequencies(d_head, base=base)
    figure, (left, middle, right) = _panels(3)
    _draw_hands(left, theta)
    _draw_speeds(middle, theta, base, scaling)
    _draw_decay(right, d_head, theta, "plain", DISTANT, longest)
    if scaling is not None:
        slower = scaled_frequencies(theta, base=base, scaling=scaling.at(longest))
        _draw_decay(right, d_head, slower, scaling.kind, "#c0392b", longest)
        right.legend()
    _save(figure, path)


def draw_alibi(path: str | Path, *, n_heads: int = 8, context_length: int = 64) -> None:
    """How much of a key's weight its distance leaves, head by head, and the biases of the first and a later head."""
    biases, slopes = alibi_biases(n_heads, context_length), alibi_slopes(n_heads)
    figure, (left, middle, right) = _panels(3)
    _draw_weights(left, slopes, context_length)
    for axes, head in ((middle, 0), (right, n_heads // 2)):
        image = axes.imshow(np.where(np.isinf(biases[head]), np.nan, biases[head]), cmap="viridis", vmin=-8)
        axes.set(title=f"bias of head {head + 1} of {n_heads}: m = {slopes[head]:.3g}", xlabel="key", ylabel="query")
        figure.colorbar(image, ax=axes, extend="min")
    _save(figure, path)


def draw_all(path: str | Path) -> None:
    """One panel for each way that has a formula, and one for what rotary positions do to products."""
    figure, (first, second, third, fourth) = _panels(4)
    draw_table(figure, first, sinusoidal(128, 64), title="sinusoidal: a row is added to each token")
    theta = frequencies(32)
    _draw_hands(second, theta)
    second.set(title="rotary: hands at positions 0 … 8")
    _draw_decay(third, 32, theta, "plain", DISTANT, 256)
    third.set(title="rotary: q · k of equal vectors by distance")
    _draw_weights(fourth, alibi_slopes(8), 64)
    fourth.set(title="ALiBi: weight left to a key, by head")
    _save(figure, path)


def draw_table(figure: "Figure", axes: Any, table: np.ndarray, *, title: str) -> None:
    """A heat map of a (T, C) table: positions downwards, dimensions to the right."""
    most = float(np.abs(table).max(initial=1e-12))
    image = axes.imshow(table, aspect="auto", cmap="RdBu", vmin=-most, vmax=most, interpolation="nearest")
    axes.set(title=title, xlabel="dimension", ylabel="position")
    figure.colorbar(image, ax=axes)


def _draw_hands(axes: Any, theta: np.ndarray) -> None:
    """Where four hands point at positions 0 … 8: a ring for each, from the fastest inside to the slowest outside."""
    angles = np.linspace(0, 2 * np.pi, 200)
    for ring, pair in enumerate(_quick_to_slow(len(theta)), start=1):
        axes.plot(ring * np.cos(angles), ring * np.sin(angles), color="0.85", linewidth=0.8)
        for m in range(9):
            end = ring * np.cos(m * theta[pair]), ring * np.sin(m * theta[pair])
            axes.scatter(*end, s=26, color=_shades(9)[m], zorder=4)
        label = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"}
        axes.text(0, -ring, f"hand {pair}", ha="center", va="center", fontsize=7, color="0.35", bbox=label)
    for m, colour in enumerate(_shades(9)):
        axes.text(-4.2 + m * 1.05, 4.75, str(m), color=colour, ha="center", fontweight="bold")
    axes.set(title="where hands point at positions 0 … 8", xlim=(-4.8, 4.8), ylim=(-4.9, 5.3), aspect="equal")
    axes.axis("off")


def _draw_speeds(axes: Any, theta: np.ndarray, base: float, scaling: Scaling | None) -> None:
    """Tokens for one turn of each hand; with a scaling, beside those that it makes of them."""
    axes.semilogy(2 * np.pi / theta, "o-", color=DISTANT, markersize=4, label="plain")
    axes.set(title="tokens until a hand comes round", xlabel="hand i (a pair of numbers)", ylabel="2π / θᵢ")
    if scaling is not None:
        slower = scaled_frequencies(
            theta, base=base, scaling=scaling.at(round(scaling.factor * scaling.original_context))
        )
        label = f"{scaling.kind}, {scaling.factor:g} ×"
        axes.semilogy(2 * np.pi / slower, "s-", color="#c0392b", markersize=4, label=label)
        axes.axhline(scaling.original_context, color="0.6", linestyle=":")
        axes.text(0, scaling.original_context * 1.15, "trained context", color="0.4", fontsize=8)
        axes.legend()


def _draw_decay(axes: Any, d_head: int, theta: np.ndarray, label: str, colour: str, longest: int) -> None:
    """q · k for equal q and k at growing distance, over their product at distance 0."""
    ones = np.full(d_head, d_head**-0.5)
    distances = np.arange(longest)
    products = np.array([turn(ones, m * theta) @ ones for m in distances])
    axes.plot(distances, products, color=colour, linewidth=1.2, label=label)
    axes.axhline(0, color="0.8", linewidth=0.8)
    axes.set(title="q · k of equal vectors fades with distance", xlabel="distance", ylabel="share of q · k at 0")


def _draw_weights(axes: Any, slopes: tuple[float, ...], context_length: int) -> None:
    """exp(−slope · distance), a line for each head, or for every so many of them."""
    distance, slopes = np.arange(context_length), slopes[:: -(-len(slopes) // _LINES)]
    for slope, colour in zip(slopes, _shades(len(slopes)), strict=True):
        axes.plot(distance, np.exp(-slope * distance), color=colour, label=f"{slope:.2g}")
    axes.set(title="weight left to a key, exp(−m · distance)", xlabel="distance", ylabel="of a key of equal score")
    axes.set_ylim(-0.03, 1.3)
    axes.legend(title="slope m", fontsize=7, title_fontsize=7, ncols=4, loc="upper center")


def _quick_to_slow(n: int) -> list[int]:
    """Some of n pairs: the slower half hardly moves within a page, so they are from the quicker one."""
    return sorted({0, n // 8, n // 4, n // 2})


def _shades(n: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](0.9 * i / max(1, n - 1)) for i in range(n)]


def _panels(count: int) -> tuple["Figure", Any]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # no pyplot: it would choose a window system

    with rc_context({"axes.titlesize": 10, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8}):
        figure = Figure(figsize=(4.3 * count, 4), layout="constrained")
        return figure, figure.subplots(1, count)


def _save(figure: "Figure", path: str | Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, dpi=90, format=Path(path).suffix[1:])
    write_atomic(Path(path), content.getvalue())
