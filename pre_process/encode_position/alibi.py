"""ALiBi, attention with linear biases: a query's score of a key falls with the distance between them, and nothing is
added to the tokens or turned.   Press, Smith & Lewis 2022, "Train short, test long", arXiv:2108.12409

    score(t, s) = q_t · k_s / √D − mₕ (t − s),   mₕ = 2^(−8h/H) for head h = 1 … H

The first heads look at the last few tokens, the last heads far back. A distance that was never seen in training is
only a little further away than those that were, so a model runs on longer texts than it was trained on.
"""

import math

import numpy as np


def alibi_slopes(n_heads: int) -> tuple[float, ...]:
    """m₁ … m_H, a geometric series from 2^(−8/H) down to 2^(−8). Raises ValueError for fewer than one head.

    Where H is no power of two: the slopes of the power of two below, then every second one of the power above, as in
    the paper's code (github.com/ofirpress/attention_with_linear_biases, get_slopes).
    """
    if n_heads < 1:
        raise ValueError(f"need at least one head, not {n_heads}")
    below = 2 ** int(math.log2(n_heads))
    slopes = [2.0 ** (-8 * h / below) for h in range(1, below + 1)]
    between = [2.0 ** (-4 * h / below) for h in range(1, 2 * below + 1, 2)]
    return (*slopes, *between[: n_heads - below])


def alibi_biases(n_heads: int, context_length: int) -> np.ndarray:
    """(H, T, T) float64: what is added to the scores, row = query, column = key; −∞ where the key lies ahead."""
    places = np.arange(context_length)
    distance = np.where(places <= places[:, None], places[:, None] - places, math.inf)
    biases: np.ndarray = -np.array(alibi_slopes(n_heads))[:, None, None] * distance
    return biases
