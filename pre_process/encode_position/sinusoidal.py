"""Sinusoidal positions: a vector of sines and cosines is added to each token's own (Vaswani et al. 2017, section 3.5).

table[t, 2i] = sin(t / 10000^(2i/C)),   table[t, 2i + 1] = cos(t / 10000^(2i/C))
"""

from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from pre_process.arrays import load_array, save_array


def sinusoidal(context_length: int, d_model: int, *, dtype: DTypeLike = np.float32) -> np.ndarray:
    """(T, C): row t = position t, columns 2i and 2i + 1 = sin and cos of t / 10000^(2i/C).

    Each pair is the hand of a clock that turns once in 2π · 10000^(2i/C) positions. Moving by k positions turns
    every hand by a fixed angle, whatever t is: row t + k is a linear function of row t. Computed in float64, then
    rounded to `dtype`. Raises ValueError for an odd d_model, which would leave a sine without its cosine.
    """
    if context_length < 0 or d_model < 2 or d_model % 2:
        raise ValueError(f"need context_length >= 0 and an even d_model >= 2, not {context_length} and {d_model}")
    position = np.arange(context_length)[:, None]  # (T, 1)
    angle = position / 10000.0 ** (np.arange(0, d_model, 2) / d_model)  # (T, C/2)
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(context_length, d_model).astype(dtype)


def add_positions(vectors: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(B, T, C) + the position of each real token in its text; padding becomes zero. Returns a new array.

    mask (B, T) bool is True at real tokens. Positions count these alone: the first real token has position 0 however
    many pads stand left of it, so a text gets the same vectors in every batch. Raises ValueError for wrong shapes.
    """
    if vectors.ndim != 3 or mask.shape != vectors.shape[:2]:
        raise ValueError(f"vectors (B, T, C) need a mask (B, T), not {vectors.shape} and {mask.shape}")
    table = sinusoidal(mask.shape[1], vectors.shape[2], dtype=vectors.dtype)
    position = np.maximum(mask.cumsum(axis=1) - 1, 0)  # (B, T)
    return np.where(mask[..., None], vectors + table[position], 0).astype(vectors.dtype, copy=False)


def save_positions(path: str | Path, table: np.ndarray) -> None:
    """Write a (T, C) table as .npy, atomically. Raises OSError."""
    save_array(path, table)


def load_positions(path: str | Path) -> np.ndarray:
    """A (T, C) table from .npy. Raises ValueError for a missing or damaged file or one of another shape."""
    table = load_array(path)
    if table.ndim != 2:
        raise ValueError(f"{path} has shape {table.shape}, not (positions, d_model)")
    return table
