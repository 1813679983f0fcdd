"""AdamW, SGD, Lion and the gradient's norm, each in one pass over memory. The formulas are in nanograd/optim.

A pass over n parameters reads up to four arrays and writes as many; the formulas, and clipping and zeroing as passes of
their own, would do that several times.
"""

from typing import Any

import numpy as np
from numba import njit

from nanograd.backend import Array
from nanograd.kernels.cpu.support import BLOCKS, INNER, SERIAL, ZERO, first, run
from nanograd.kernels.cpu.threads import for_each

PART = 1 << 16  # parameters of one task
# No sum is taken across numbers, so there is nothing to reorder. And one rounding (a multiply-add) in the vector loop,
# but two in its remainder, would make a weight depend on where its buffer is cut: parameter by parameter, say.
EXACT: dict[str, Any] = {**INNER, "fastmath": False}


@njit(**SERIAL)
def _adamw(w: Array, g: Array, m: Array, v: Array, numbers: Any, zero_grad: bool) -> None:
    """AdamW.step for arrays (n,): m, v, w and, if asked for, zeros in g"""
    for_each(_adamw_part, (w.size + PART - 1) // PART, (w, g, m, v, numbers, zero_grad))


@njit(**EXACT)
def _adamw_part(part: int, w: Array, g: Array, m: Array, v: Array, numbers: Any, zero_grad: bool) -> None:
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
def _sgd(w: Array, g: Array, m: Array, numbers: Any, kind: Any, zero_grad: bool) -> None:
    """SGD.step for arrays (n,): m, if it remembers, w and, if asked for, zeros in g"""
    for_each(_sgd_part, (w.size + PART - 1) // PART, (w, g, m, numbers, kind, zero_grad))


@njit(**EXACT)
def _sgd_part(part: int, w: Array, g: Array, m: Array, numbers: Any, kind: Any, zero_grad: bool) -> None:
    (scale, momentum, rate, keep), (remembers, nesterov) = numbers, kind
    here = slice(part * PART, (part + 1) * PART)
    w, g, m = w[here], g[here], m[here]
    for i in range(len(w)):
        step = g[i] * scale
        if remembers:
            mi = m[i] * momentum + step
            m[i] = mi
            step = step + mi * momentum if nesterov else mi
        w[i] = w[i] * keep - step * rate
        if zero_grad:
            g[i] = ZERO


@njit(**SERIAL)
def _lion(w: Array, g: Array, m: Array, numbers: Any, zero_grad: bool) -> None:
    """Lion.step for arrays (n,): w, m and, if asked for, zeros in g"""
    for_each(_lion_part, (w.size + PART - 1) // PART, (w, g, m, numbers, zero_grad))


@njit(**EXACT)
def _lion_part(part: int, w: Array, g: Array, m: Array, numbers: Any, zero_grad: bool) -> None:
    scale, beta_1, rest_1, beta_2, rest_2, rate, keep = numbers
    here = slice(part * PART, (part + 1) * PART)
    w, g, m = w[here], g[here], m[here]
    for i in range(len(w)):
        gi, mi = g[i] * scale, m[i]
        between = mi * beta_1 + gi * rest_1
        up, down = rate if between > ZERO else ZERO, rate if between < ZERO else ZERO
        w[i] = w[i] * keep - up + down
        m[i] = mi * beta_2 + gi * rest_2
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


def sgd(
    w: Array,
    g: Array,
    m: Array,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    decay: float,
    scale: float,
    zero_grad: bool,
) -> None:
    """Update float32 arrays (n,) in place: SGD's formulas with the gradient `scale` g. Without momentum m is unread."""
    numbers = tuple(map(np.float32, (scale, momentum, lr, 1 - lr * decay)))
    run(_sgd, w.size, w, g, m, numbers, (momentum > 0, nesterov), zero_grad)


def lion(
    w: Array,
    g: Array,
    m: Array,
    *,
    lr: float,
    betas: tuple[float, float],
    decay: float,
    scale: float,
    zero_grad: bool,
) -> None:
    """Update float32 arrays (n,) in place: Lion's formulas with the gradient `scale` g."""
    beta_1, beta_2 = betas
    numbers = scale, beta_1, 1 - beta_1, beta_2, 1 - beta_2, lr, 1 - lr * decay
    run(_lion, w.size, w, g, m, tuple(map(np.float32, numbers)), zero_grad)


def sum_of_squares(g: Array) -> float:
    """Σ g² of a float32 array (n,), summed in float64: the same for any number of threads."""
    sums = np.empty(BLOCKS)
    run(_squares, g.size, g, sums)
    return float(sums.sum())
