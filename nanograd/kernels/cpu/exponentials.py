"""exp of the output layer's logits, made while they are in the cache, and left in the lanes of the next products.

    z = x Wᵀ + b         512 columns at a time, in a scratch that fits the second-level cache
    e = exp(z − r)       narrowed at once, so that it leaves the caches as float32 or as bf16, and only once
The reference r is the largest of a row's first 512 logits. Any number near the row's maximum will do: exponentials need
not be below 1, they must only be far from overflow. And no e has to wait for its row's sum, because a factor of a whole
row can as well be applied to the row of x that e will be multiplied with, and to the row of dx that comes out.
Online softmax, which corrects what it has added up, is Milakov and Gimelshein, arXiv:1805.02867.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from nanograd.backend import Array
from nanograd.kernels.cpu.avx512 import LANES, depth, put
from nanograd.kernels.cpu.blocking import Shape, Summand, multiply_lanes, part_of
from nanograd.kernels.cpu.micro_kernel import TILE_COLUMNS
from nanograd.kernels.cpu.packing import BLOCK_ROWS, Span
from nanograd.kernels.cpu.softmax import LOWEST, finite_max
from nanograd.kernels.cpu.support import INNER, INT_1, ONE, SERIAL, ZERO, exp, maximum
from nanograd.kernels.cpu.threads import for_each

STRIP = 16  # panels of W whose logits are held at a time
WIDTH = STRIP * TILE_COLUMNS
STRIDE = np.int64(WIDTH + LANES)  # from row to row of the scratch: an odd number of cache lines
FAR = np.float32(32)  # a sum below e³² is far from overflow, and above e⁻³² far from losing its digits
REFERENCE, TOTAL, DRIFT, AT_TARGET = range(4)  # what `sums` holds for each row: r, Σ e, Σ (z − r), zₜ − r

N_SUMS = 4


class Layer(NamedTuple):
    """z = x Wᵀ + b, ready to be computed."""

    x: Array  # (N, …) lanes, which `exponentials` fills
    panels: Array  # Wᵀ, packed
    shape: Shape  # N, C, V
    bias: Summand
    targets: Array  # (N,) int64


@njit(**INNER)
def narrow(x: Array, lanes: Array) -> None:
    """The rows of x (N, C) in lanes (N, …), and zeros behind them: a left operand that needs no more packing."""
    for i in range(len(x)):
        row, target = x[i], lanes[i]
        for k in range(len(row)):
            put(target, k, row[k])
        for k in range(len(row), len(target) * depth(target)):
            put(target, k, ZERO)


@njit(**SERIAL)
def exponentials(x: Array, layer: Layer, threads: int, scratch: Array, e: Array, keep: bool, sums: Array) -> None:
    """e (N, …) lanes = exp(z − r), but 0 at the row's target, and `sums` (4, N). The threads divide the rows of x.

    scratch    (threads, BLOCK_ROWS, STRIDE)
    e          without `keep` it has a row for each thread, which nobody will read
    sums       REFERENCE is NaN where it is not known yet
    """
    for_each(_share, threads, (x, layer, threads, scratch, e, keep, sums))


@njit(**INNER)
def _share(
    thread: int, x: Array, layer: Layer, threads: int, scratch: Array, e: Array, keep: bool, sums: Array
) -> None:
    """One thread's rows. If a logit is far from its row's first 512, which is seldom: again, with the true maxima."""
    first, last, _, _ = part_of(thread, (threads, INT_1), layer.shape)
    narrow(x[first:last], layer.x[first:last])
    for attempt in range(3):
        _fill(layer, (first, last), attempt == 1, scratch[thread], e, -1 if keep else thread, sums)
        if attempt == 0 and not _some_far(sums, (first, last)):
            break


@njit(**INNER)
def _fill(layer: Layer, rows: Span, seek: bool, scratch: Array, e: Array, spare: int, sums: Array) -> None:
    """These rows, strip by strip: the strip's panels of W stay in the cache for all of them."""
    for n in range(0, layer.shape[2], WIDTH):
        for block in range(rows[0], rows[1], BLOCK_ROWS):
            last = min(block + BLOCK_ROWS, rows[1])
            width = _logits(layer, (block, last), n, scratch)
            for i in range(block, last):
                z = scratch[i - block, :width]
                if seek:
                    _seek(z, n, sums[:, i])
                else:
                    _take(z, n, layer.targets[i], e[i if spare < 0 else spare], sums[:, i])


@njit(**INNER)
def _seek(z: Array, n: int, sums: Array) -> None:
    """REFERENCE = the true maximum"""
    m = sums[REFERENCE] if n else LOWEST
    for j in range(len(z)):
        m = maximum(m, z[j])
    sums[REFERENCE] = m


@njit(**INNER)
def _take(z: Array, n: int, target: int, e: Array, sums: Array) -> None:
    """The logits of one row from column n on: into e, and into the sums."""
    if n == 0:
        sums[TOTAL] = sums[DRIFT] = ZERO
        if not np.isfinite(sums[REFERENCE]):
            sums[REFERENCE] = finite_max(z)
    total, drift, reference = ZERO, ZERO, sums[REFERENCE]
    for j in range(len(z)):
        d = z[j] - reference
        y = exp(d)
        total += y
        drift += d
        put(e, n + j, y)
    sums[TOTAL] += total
    sums[DRIFT] += drift
    put(e, n + len(z), ZERO)  # behind an odd vocabulary, a lane of bf16 has a second half
    if n <= target < n + len(z):
        sums[AT_TARGET] = z[target - n] - reference
        put(e, target, ZERO)


@njit(**INNER)
def _logits(layer: Layer, rows: Span, n: int, scratch: Array) -> int:
    """At most WIDTH logits of these rows, from column n on; how many there were."""
    last = min(n + WIDTH, layer.shape[2])
    part = (rows[0], rows[1], n // TILE_COLUMNS, (last + TILE_COLUMNS - 1) // TILE_COLUMNS)
    here = (scratch.ctypes.data - 4 * (rows[0] * STRIDE + n), STRIDE)  # where row 0, column 0 would be
    multiply_lanes(layer.x, layer.panels, layer.shape, part, here, layer.bias)
    return last - n


@njit(**INNER)
def _some_far(sums: Array, rows: Span) -> bool:
    """Is some reference so far from the maximum that the sum is useless? (Or NaN: a second try does no harm.)"""
    far = False
    for i in range(rows[0], rows[1]):
        far |= not (np.exp(-FAR) < sums[TOTAL, i] < np.exp(FAR))
    return far


@njit(**SERIAL)
def losses_and_factors(
    sums: Array, V: int, smoothing: Any, z_loss: Any, share: Any, losses: Array, factors: Array, corrections: Array
) -> None:
    """Of each row (N,): ℓ − (1 − ε) zₜ − ε ⟨z⟩ + ζ ℓ²; its gradient is factors · e, where the target has `corrections`

    and ε/V · share has yet to be taken from all of it:  share ((1 + 2 ζ ℓ) softmax(z) − (1 − ε) onehot(t) − ε/V)
    """
    for i in range(len(losses)):
        log_total, at_target = np.log(sums[TOTAL, i]), sums[AT_TARGET, i]
        log_sum = sums[REFERENCE, i] + log_total
        losses[i] = log_total - (ONE - smoothing) * at_target + z_loss * log_sum * log_sum
        if smoothing != ZERO:
            losses[i] -= smoothing * (sums[DRIFT, i] / np.float32(V))
        factors[i] = share * (ONE + z_loss * (log_sum + log_sum)) / sums[TOTAL, i]
        corrections[i] = factors[i] * exp(at_target) - (ONE - smoothing) * share
