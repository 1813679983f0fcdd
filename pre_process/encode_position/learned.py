"""Learned positions: a free vector for each position is added to the token's own.   Radford et al. 2018, GPT-1

    x_t = token vector + table[t],   table (T, C) is a parameter like any other

Nothing says that neighbours are alike: what positions have to do with each other is learned from the text. And there
is no vector for position T, so a model reads no more than the T tokens that it was trained for.
"""

import numpy as np
from numpy.typing import DTypeLike


def learned(
    context_length: int, d_model: int, *, rng: np.random.Generator, std: float = 0.02, dtype: DTypeLike = np.float32
) -> np.ndarray:
    """(T, C): what the vectors are before anything is learned, normally distributed. Raises ValueError for bad sizes.

    0.02 is GPT-2's standard deviation. Too long they would drown the token vectors, which they are added to.
    """
    if context_length < 0 or d_model < 1 or not std >= 0:
        raise ValueError(f"need context_length >= 0, d_model >= 1, std >= 0, not {context_length}, {d_model}, {std}")
    return rng.normal(0, std, (context_length, d_model)).astype(dtype)
