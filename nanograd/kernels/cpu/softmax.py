"""softmax, log_softmax and cross_entropy, a row at a time. Twins of nanograd/ops/softmax.py and of loss.py.

A row is read from memory once and then from the cache: for its maximum, for its sum and for its result.
"""

from typing import Any

import numpy as np
from numba import njit, prange

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cpu.support import INNER, ONE, PARALLEL, ZERO, exp, maximum, rows, run, takes
from nanograd.ops.loss import cross_entropy
from nanograd.ops.softmax import log_softmax, softmax
from nanograd.primitive import Needs

LOWEST = np.float32(-np.inf)


@njit(**INNER)
def finite_max(x: Array) -> Any:
    """max x, and 0 where it is infinite or NaN: x minus it is never ∞ − ∞, and a NaN reaches the sum in any case"""
    m = LOWEST
    for j in range(len(x)):
        m = maximum(m, x[j])
    return m if np.isfinite(m) else ZERO


@njit(**PARALLEL)
def _softmax(x: Array, scale: Any, y: Array) -> None:
    """yᵢ = exp(s (xᵢ − max x)) / Σⱼ exp(s (xⱼ − max x)); zeros where every xⱼ is −∞"""
    N, C = x.shape
    for i in prange(N):
        xi, yi = x[i], y[i]
        m, total = finite_max(xi), ZERO
        for j in range(C):
            yi[j] = exp((xi[j] - m) * scale)
            total += yi[j]
        share = ONE / total if total != ZERO else ZERO
        for j in range(C):
            yi[j] *= share


@njit(**PARALLEL)
def _softmax_backward(dy: Array, y: Array, scale: Any, dx: Array) -> None:
    """dxᵢ = s yᵢ (dyᵢ − Σⱼ dyⱼ yⱼ)"""
    N, C = y.shape
    for i in prange(N):
        dyi, yi, dxi = dy[i], y[i], dx[i]
        mean = ZERO
        for j in range(C):
            mean += dyi[j] * yi[j]
        for j in range(C):
            dxi[j] = scale * yi[j] * (dyi[j] - mean)


@njit(**PARALLEL)
def _log_softmax(x: Array, scale: Any, y: Array) -> None:
    """yᵢ = s (xᵢ − max x) − ln Σⱼ exp(s (xⱼ − max x)); −∞ where every xⱼ is"""
    N, C = x.shape
    for i in prange(N):
        xi, yi = x[i], y[i]
        m, total = finite_max(xi), ZERO
        for j in range(C):
            total += exp((xi[j] - m) * scale)
        log_total = np.log(total if total != ZERO else ONE)
        for j in range(C):
            yi[j] = (xi[j] - m) * scale - log_total


@njit(**PARALLEL)
def _log_softmax_backward(dy: Array, y: Array, scale: Any, dx: Array) -> None:
    """dxᵢ = s (dyᵢ − exp(yᵢ) Σⱼ dyⱼ)"""
    N, C = y.shape
    for i in prange(N):
        dyi, yi, dxi = dy[i], y[i], dx[i]
        total = ZERO
        for j in range(C):
            total += dyi[j]
        for j in range(C):
            dxi[j] = scale * (dyi[j] - exp(yi[j]) * total)


@njit(**PARALLEL)
def _cross_entropy(
    z: Array, t: Array, smoothing: Any, z_loss: Any, losses: Array, largest: Array, totals: Array
) -> None:
    """losses = ℓ − (1 − ε) zₜ − ε ⟨z⟩ + ζ ℓ² with ℓ = m + ln total, m = max z, for each row; 0 where t is −1"""
    N, V = z.shape
    for i in prange(N):
        zi, m, total, mean = z[i], finite_max(z[i]), ZERO, ZERO
        for j in range(V):
            total += exp(zi[j] - m)
            mean += zi[j] - m  # a difference: exact for any offset
        largest[i], totals[i], losses[i] = m, total, ZERO
        if t[i] >= 0:
            log_total = np.log(total)
            losses[i] = log_total - (ONE - smoothing) * (zi[t[i]] - m)
            if smoothing != ZERO:
                losses[i] -= smoothing * (mean / np.float32(V))
            if z_loss != ZERO:
                losses[i] += z_loss * (m + log_total) ** 2


@njit(**PARALLEL)
def _cross_entropy_backward(
    z: Array, t: Array, share: Any, smoothing: Any, z_loss: Any, largest: Array, totals: Array, dz: Array
) -> None:
    """dz = share ((1 + 2 ζ ℓ) softmax(z) − (1 − ε) onehot(t) − ε/V); 0 where t is −1"""
    N, V = z.shape
    for i in prange(N):
        zi, dzi, m = z[i], dz[i], largest[i]
        if t[i] < 0:
            dzi[:] = ZERO
            continue
        slope = share / totals[i]
        if z_loss != ZERO:
            slope *= ONE + z_loss * (m + np.log(totals[i])) + z_loss * (m + np.log(totals[i]))
        even = share * smoothing / np.float32(V)
        for j in range(V):
            dzi[j] = exp(zi[j] - m) * slope - even
        dzi[t[i]] -= (ONE - smoothing) * share


def _last_axis(x: Array, axis: int, temperature: float) -> bool:
    """Can the kernels take it: rows of float32, and 1/τ a finite number?"""
    return takes(x) and x.ndim > 0 and axis in (-1, x.ndim - 1) and 1e-30 < temperature < 1e30


def _forward(kernel: Any, x: Array, axis: int, temperature: float) -> Any:
    if not _last_axis(x, axis, temperature):
        return NotImplemented
    x2 = rows(x)
    y = np.empty_like(x2)
    run(kernel, x2.size, x2, np.float32(1 / temperature), y)
    y = y.reshape(x.shape)
    return y, (y,)


def _backward(kernel: Any, dy: Array, y: Array, temperature: float) -> Array:
    y2 = rows(y)
    dx = np.empty_like(y2)
    run(kernel, y2.size, rows(dy), y2, np.float32(1 / temperature), dx)
    return dx.reshape(y.shape)


def _softmax_forward(xp: ArrayModule, x: Array, *, axis: int = -1, temperature: float = 1.0) -> Any:
    return _forward(_softmax, x, axis, temperature)


def _softmax_gradient(
    xp: ArrayModule, dy: Array, y: Array, *, axis: int = -1, temperature: float = 1.0, needs: Needs
) -> Any:
    return _backward(_softmax_backward, dy, y, temperature)


def _log_softmax_forward(xp: ArrayModule, x: Array, *, axis: int = -1, temperature: float = 1.0) -> Any:
    return _forward(_log_softmax, x, axis, temperature)


def _log_softmax_gradient(
    xp: ArrayModule, dy: Array, y: Array, *, axis: int = -1, temperature: float = 1.0, needs: Needs
) -> Any:
    return _backward(_log_softmax_backward, dy, y, temperature)


def _places(logits: Array, targets: Any, ignore_index: int) -> Array | None:
    """Targets as (N,) int64 with −1 where there is none; None for what the formula refuses, and says why."""
    targets = np.asarray(targets)
    if not takes(logits) or targets.dtype.kind not in "iu" or targets.shape != logits.shape[:-1]:
        return None
    t = targets.reshape(-1).astype(np.int64)
    real = t != ignore_index
    if ((t < 0) | (t >= logits.shape[-1]))[real].any():
        return None
    t[~real] = -1
    return t


def _cross_entropy_forward(
    xp: ArrayModule,
    logits: Array,
    targets: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Any:
    if (t := _places(logits, targets, ignore_index)) is None:
        return NotImplemented
    z, smoothing, weight = rows(logits), np.float32(label_smoothing), np.float32(z_loss)
    losses, largest, totals = np.empty((3, len(z)), np.float32)
    run(_cross_entropy, z.size, z, t, smoothing, weight, losses, largest, totals)
    n_real = max(np.count_nonzero(t >= 0), 1)
    return np.asarray(losses.sum(dtype=np.float64) / n_real, np.float32), (logits, t, largest, totals, n_real)


def _cross_entropy_gradient(
    xp: ArrayModule,
    dy: Array,
    logits: Array,
    t: Array,
    largest: Array,
    totals: Array,
    n_real: int,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    needs: Needs,
) -> Any:
    z, share = rows(logits), np.float32(dy / n_real)
    dz = np.empty_like(z)
    smoothing, weight = np.float32(label_smoothing), np.float32(z_loss)
    run(_cross_entropy_backward, z.size, z, t, share, smoothing, weight, largest, totals, dz)
    return dz.reshape(logits.shape), None


softmax.twin(np, _softmax_forward, _softmax_gradient)
log_softmax.twin(np, _log_softmax_forward, _log_softmax_gradient)
cross_entropy.twin(np, _cross_entropy_forward, _cross_entropy_gradient)
