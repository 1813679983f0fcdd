"""A map of words: near on paper as near as two dimensions allow, coloured by group, no label on another."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from pre_process.files import write_atomic
from pre_process.word2vec.projection import principal_components, t_sne

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Method = Literal["pca", "t-sne"]
SUFFIXES = (".png", ".svg", ".pdf")
_SMALL: dict[str, dict[str, Any]] = {".png": {"pil_kwargs": {"optimize": True}}}  # a tenth smaller
_COLOURS = (
    "#1f5fa8",
    "#c2500a",
    "#23803a",
    "#b3202a",
    "#6d45a8",
    "#7a4a3a",
    "#b83d8e",
    "#5a5a5a",
    "#7d7a10",
    "#0f8590",
)
_TRIED = 1000  # words for which a free place is looked for: a page has room for some hundreds
_PER_GROUP = 10  # words on average, where there are enough for several groups
_DISTANCES = (1, 5, 10)  # points between a dot and its label
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (0.7, 0.7), (-0.7, 0.7), (0.7, -0.7), (-0.7, -0.7))


def unit(vectors: np.ndarray) -> np.ndarray:
    """(N, d) → (N, d) of length 1, for the length says little but how often a word occurs; zeros stay zeros."""
    units: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    return units


def positions(units: np.ndarray, method: Method) -> np.ndarray:
    """(N, d) → (N, 2), a place on the map for each. Raises ValueError for another method, or too few or many words."""
    if method not in get_args(Method):
        raise ValueError(f"no method {method!r}: use {' or '.join(get_args(Method))}")
    if len(units) < 2:
        raise ValueError("a map of one word shows nothing: name more")
    return principal_components(units) if method == "pca" else t_sne(units)


def groups(units: np.ndarray) -> np.ndarray:
    """(N,) the number of each word's group, by k-means in all dimensions."""
    from scipy.cluster.vq import kmeans2

    n = max(1, min(len(_COLOURS), len(units) // _PER_GROUP))
    _, found = kmeans2(units.astype(np.float64), n, iter=30, minit="++", rng=np.random.default_rng(0))
    return np.asarray(found)


def draw_map(path: Path, words: Sequence[str], places: np.ndarray, colours: np.ndarray, title: str) -> int:
    """Write a picture of words at (N, 2) places, atomically; how many of them got a label. Raises OSError.

    Earlier words are labelled first; one whose label would lie on another is a dot alone.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xticks=[], yticks=[])
    axes.set_title(title, loc="left", fontsize=10, color="0.35", parse_math=False)
    axes.spines[:].set_visible(False)
    axes.margins(0.03)
    axes.scatter(places[:, 0], places[:, 1], c=[_COLOURS[colour] for colour in colours], s=7, linewidths=0)
    content = io.BytesIO()
    with rc_context({"svg.hashsalt": "nanograd"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box is drawn: no font has every script
        figure.draw_without_rendering()  # from here on it is known where the dots are
        figure.set_layout_engine("none")
        labelled = _label(axes, words, places, colours)
        figure.savefig(content, format=path.suffix[1:], **_SMALL.get(path.suffix, {}))
    write_atomic(path, content.getvalue())
    return labelled


def _label(axes: "Axes", words: Sequence[str], places: np.ndarray, colours: np.ndarray) -> int:
    """Put a word beside each dot where one of the places around it is free; how many there were."""
    scale, frame = axes.figure.dpi / 72, np.array(axes.get_window_extent().extents)
    dots = axes.transData.transform(places)
    taken, n = np.hstack([dots - 2 * scale, dots + 2 * scale]), 0
    for word, place, dot, colour in zip(words[:_TRIED], places, dots, colours, strict=False):
        text = axes.annotate(
            word, place, (0, 0), textcoords="offset points", fontsize=8, ha="center", va="center",
            color=_COLOURS[colour], parse_math=False,
        )  # fmt: skip
        extent = text.get_window_extent()
        size = np.array([extent.width + 4, extent.height])  # or two words would read as one
        offset = _free_offset(dot, size, taken, frame, scale)
        if offset is None:
            text.remove()
            continue
        text.set_position(tuple(offset / scale))
        taken, n = np.vstack([taken, np.hstack([dot + offset - size / 2, dot + offset + size / 2])]), n + 1
    return n


def _free_offset(
    dot: np.ndarray, size: np.ndarray, taken: np.ndarray, frame: np.ndarray, scale: float
) -> np.ndarray | None:
    """From a dot to the middle of its label, in pixels: the nearest place where it lies on nothing, or None.

    taken (n, 4) and frame (4,) are boxes: left, bottom, right, top.
    """
    for distance in _DISTANCES:
        for side in _SIDES:
            offset = np.array(side) * (size / 2 + distance * scale)
            low, high = dot + offset - size / 2, dot + offset + size / 2
            inside = (low >= frame[:2]).all() and (high <= frame[2:]).all()
            if inside and not ((low < taken[:, 2:]) & (high > taken[:, :2])).all(axis=1).any():
                return offset
    return None
