"""Rotary positions: queries and keys are turned by their position, and nothing is added to the tokens.

Su et al. 2021, RoFormer, arXiv:2104.09864

A head of width D is D/2 pairs of numbers, each a hand of a clock. At position m hand i is turned by the angle m θᵢ:

    θᵢ = base^(−2i/D),   y₁ = x₁ cos mθᵢ − x₂ sin mθᵢ,   y₂ = x₁ sin mθᵢ + x₂ cos mθᵢ

The product of a turned query and a turned key is that of the two, turned by the difference: it depends on how far apart
they stand and not on where. There is no table that could end, but angles that were never seen in training are not
understood either: see rotary_scaling.py.

Which numbers make a pair:
    pairs   x[2i] and x[2i + 1], as in the paper, GPT-J and Meta's Llama
    halves  x[i] and x[i + D/2], as in GPT-NeoX and in Llama as Hugging Face keeps it
One is the other with the columns of the query and key matrices in another order.
"""

from typing import Literal

import numpy as np

Layout = Literal["halves", "pairs"]


def frequencies(d_head: int, *, base: float = 10_000.0) -> np.ndarray:
    """(D/2,) float64: θᵢ, radians per position, from 1 down to nearly 1/base. Raises ValueError for an odd width."""
    if d_head < 2 or d_head % 2 or not 0 < base < np.inf:
        raise ValueError(f"need an even d_head >= 2 and a finite base above 0, not {d_head} and {base}")
    theta: np.ndarray = base ** (np.arange(0, d_head, 2) / -d_head)
    return theta


def turn(x: np.ndarray, angles: np.ndarray, *, layout: Layout = "halves") -> np.ndarray:
    """Each pair of x (…, D) turned by its angle (…, D/2), in radians: position · θ.   A new array (…, D)

    The plain formula, for reading and for pictures; nanograd/ops/rotary.py is the same with a gradient.
    """
    D = x.shape[-1]
    first, second = (slice(0, D // 2), slice(D // 2, D)) if layout == "halves" else (slice(0, D, 2), slice(1, D, 2))
    y, x1, x2 = np.empty(x.shape), x[..., first], x[..., second]
    y[..., first] = x1 * np.cos(angles) - x2 * np.sin(angles)
    y[..., second] = x1 * np.sin(angles) + x2 * np.cos(angles)
    return y
