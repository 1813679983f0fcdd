"""The position table as a picture."""

from pathlib import Path

import numpy as np


def draw_positions(table: np.ndarray, path: str | Path) -> None:
    """Save a heat map of a (T, C) table: positions downwards, dimensions to the right. Suffix .png or .svg."""
    from matplotlib.figure import Figure  # no pyplot: it would choose a window system

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(table, aspect="auto", cmap="RdBu", vmin=-1, vmax=1, interpolation="nearest")
    axes.set(title="sinusoidal positions", xlabel="dimension", ylabel="position")
    figure.colorbar(image, ax=axes)
    figure.savefig(path)
