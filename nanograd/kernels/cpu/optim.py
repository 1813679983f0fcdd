"""AdamW and the gradient's norm in one pass over memory. The formulas are in nanograd/optim.

A pass over n parameters reads four arrays and writes four; the formulas, and clipping and zeroing as passes of their
own, would do that several times.
"""

from typing import Any

import numpy as np
from numba import njit

from nanograd.backend import Array
from nanograd.kernels.cpu.support import BLOCKS, INNER, SERIAL, ZERO, first, run
from nanograd.kernels.cpu.threads import for_each

PART = 1 << 16  # parameters of one task


@njit(**SERIAL)
def _adamw(w: Array, g: Array, m: Array, v: Array, numbers: Any, zero_grad: bool) -> None:
    """AdamW.step for arrays (n,): m, v, w and, if asked for, zeros in g"""
    for_each(_update_part, (w.size + PART - 1) // PART, (w, g, m, v, numbers, zero_grad))


@njit(**INNER)
def _update_part(part: int, w: Array, g: Array, m: Array, v: Array, numbers: Any, zero_grad: bool) -> None:
    scale, beta_1, rest_1, beta_2, rest_2, root_bias_2, eps, rate, keep = numbers
    here = slice(part * PART, (part + 1) * PART)
    w, g, m, v = w[here], g[here], m[here], v[here]  # counted from 0, or each index might be one from the end
    for i in range(len(w)):
        gi = g[i] * scale
        mi = m[i] * beta_1 + gi * rest_1
        vi = v[i] * beta_2 + gi * gi * rest_2
        m[i], v[i] = mi, vi
        w[i] = w[i] * keep - rate * (mi / (np.sqrt(vi) / root_bias_2 + eps))
        if zero_grad:
            g[i] = ZERO


@njit(**SERIAL)
def _squares(g: Array, sums: Array) -> None:
    """Σ g² of each block of g, in float64"""
    for_each(_squares_of_block, len(sums), (g, sums))


@njit(**INNER)
def _squares_of_block(block: int, g: Array, sums: Array) -> None:
    part, total = g[first(block, len(sums), g.size) : first(block + 1, len(sums), g.size)], 0.0
    for i in range(len(part)):
        total += np.float64(part[i]) * np.float64(part[i])
    sums[block] = total


def adamw(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    decay: float,
    scale: float,
    zero_grad: bool,
) -> None:
    """Update number `step` (from 1) of float32 arrays (n,), in place: AdamW's formulas with the gradient `scale` g."""
    beta_1, beta_2 = betas
    means = beta_1, 1 - beta_1, beta_2, 1 - beta_2, (1 - beta_2**step) ** 0.5
    numbers = scale, *means, eps, lr / (1 - beta_1**step), 1 - lr * decay
    run(_adamw, w.size, w, g, m, v, tuple(map(np.float32, numbers)), zero_grad)


def sum_of_squares(g: Array) -> float:
    """Σ g² of a float32 array (n,), summed in float64: the same for any number of threads."""
    sums = np.empty(BLOCKS)
    run(_squares, g.size, g, sums)
    return float(sums.sum())
