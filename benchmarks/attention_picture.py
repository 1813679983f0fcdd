"""What the journal draws of flash attention: which tiles are computed, and which banks eight rows of a tile lie in.

python -m benchmarks.attention_picture pictures/flash_attention.png
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

T, QUERIES, KEYS = 1024, 128, 64  # a block's queries and the keys of a step, as in kernels/cuda/attention.py for D = 64
UNITS, BANKS = 8, 32  # a row of 64 numbers of 16 bits is 8 units of 16 bytes, and each unit lies in four banks
DOCUMENTS = (0, 300, 420, 800)  # where they start


def tiles(starts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """0 for a tile that is skipped, 1 for one without a mask, 2 for one at an edge: (T / QUERIES, T / KEYS)"""
    t, s = np.arange(T)[:, None], np.arange(T)
    seen = (s <= t) & (s >= starts[:, None])
    parts = seen.reshape(T // QUERIES, QUERIES, T // KEYS, KEYS)
    some, whole = parts.any(axis=(1, 3)), parts.all(axis=(1, 3))
    return np.asarray(some.astype(int) + (some & ~whole))


def banks(swizzled: bool) -> np.ndarray[Any, Any]:
    """(8, 32): 1 where unit 2 of each of eight rows, which one ldmatrix reads, lies in the banks"""
    row = np.arange(8)
    place = 2 ^ row if swizzled else np.full(8, 2)
    return np.asarray(np.arange(BANKS) // 4 == place[:, None]).astype(int)


def draw(path: Path) -> None:
    """Write the picture, in the format that the file's name ends in."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(2, 1))
    colours = ListedColormap(["#eeeeee", "#4878a8", "#e0a030"])
    starts = np.array([max(d for d in DOCUMENTS if d <= t) for t in range(T)])
    titles = ("causal", f"causal, documents that start at {', '.join(map(str, DOCUMENTS))}")
    for column, (title, begins) in enumerate(zip(titles, (np.zeros(T, int), starts), strict=True)):
        axes, found = figure.add_subplot(grid[0, column]), tiles(begins)
        axes.pcolormesh(
            np.arange(0, T + 1, KEYS), np.arange(0, T + 1, QUERIES), found, cmap=colours, vmax=2, edgecolors="w"
        )
        axes.invert_yaxis()
        axes.set(xlabel="keys", ylabel="queries")
        counts = [int((found == kind).sum()) for kind in range(3)]
        axes.set_title(f"{title}\n{counts[0]} tiles skipped (grey), {counts[1]} whole (blue), {counts[2]} at an edge")
    for column, (title, swizzled) in enumerate((("without swizzle: 8 rows, 4 banks", False), ("with: 32 banks", True))):
        axes = figure.add_subplot(grid[1, column])
        axes.pcolormesh(banks(swizzled), cmap=ListedColormap(["#eeeeee", "#4878a8"]), edgecolors="w")
        axes.invert_yaxis()
        axes.set(xlabel="bank of shared memory (4 bytes each)", ylabel="row of the tile", xticks=range(0, 33, 4))
        axes.set_title(f"Eight rows of one column of units, {title}")
    figure.savefig(path, dpi=90)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.attention_picture", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("path", type=Path, help="the picture, a .png")
    draw(parser.parse_args(argv).path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
