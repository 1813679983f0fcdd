"""linear_cross_entropy with the gradients made in forward. Twin of nanograd/ops/loss.py.

The formula makes each chunk of logits twice: forward needs them, and so does backward. But the loss is a single number,
so its gradients are known up to the factor dy as soon as the logits are: while a chunk is there, forward turns it into
its own gradient and adds up dx, dW and db. That saves one product of four, and keeps an array as large as W.
"""

from typing import Any

import numpy as np
from numba import njit

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cpu.cpu_features import has_avx512
from nanograd.kernels.cpu.gemm import product
from nanograd.kernels.cpu.output_layer import losses_and_gradients
from nanograd.kernels.cpu.softmax import finite_max
from nanograd.kernels.cpu.support import INNER, ONE, SERIAL, ZERO, aligned_empty, exp, rows, run, takes
from nanograd.kernels.cpu.threads import for_each
from nanograd.ops.loss import linear_cross_entropy
from nanograd.primitive import Needs
from nanograd.tensor import ADDED, is_recording

CHUNK = 1 << 23  # logits that are held at a time: 32 MiB in float32
FEWEST_ROWS = 256  # but so many rows at least, because each chunk reads and writes all of dW

Into = tuple[Array | None, ...]


@njit(**SERIAL)
def _losses_and_slopes(
    z: Array, t: Array, smoothing: Any, z_loss: Any, share: Any, losses: Array, slopes: bool
) -> None:
    """Row by row: the loss and, if `slopes`, share times its gradient in the place of z."""
    for_each(_row, len(z), (z, t, smoothing, z_loss, share, losses, slopes))


@njit(**INNER)
def _row(i: int, z: Array, t: Array, smoothing: Any, z_loss: Any, share: Any, losses: Array, slopes: bool) -> None:
    losses[i] = _loss_and_slope(z[i], t[i], smoothing, z_loss, share, slopes)


@njit(**INNER)
def _loss_and_slope(z: Array, target: int, smoothing: Any, z_loss: Any, share: Any, slope: bool) -> Any:
    """ℓ − (1 − ε) zₜ − ε ⟨z⟩ + ζ ℓ²,  ℓ = ln Σ exp z;   z ← share ((1 + 2 ζ ℓ) softmax(z) − (1 − ε) onehot(t) − ε/V)"""
    V, m, mean, total = np.float32(len(z)), finite_max(z), ZERO, ZERO
    at_target = z[target] - m  # differences: exact for any offset
    if smoothing != ZERO:
        for j in range(len(z)):
            mean += (z[j] - m) / V
    for j in range(len(z)):
        z[j] = exp(z[j] - m)
        total += z[j]
    log_total = np.log(total)
    log_sum = m + log_total
    if slope:
        factor = share * (ONE + z_loss * (log_sum + log_sum)) / total
        even = share * smoothing / V
        for j in range(len(z)):
            z[j] = z[j] * factor - even
        z[target] -= (ONE - smoothing) * share
    return log_total - (ONE - smoothing) * at_target - smoothing * mean + z_loss * log_sum * log_sum


@njit(**SERIAL)
def _add_scaled(total: Array, x: Array, factor: Any) -> None:
    """total += factor · x"""
    for_each(_add_scaled_row, len(total), (total, x, factor))


@njit(**INNER)
def _add_scaled_row(i: int, total: Array, x: Array, factor: Any) -> None:
    place, row = total[i], x[i]
    for j in range(len(row)):
        place[j] += factor * row[j]


def _forward(
    xp: ArrayModule,
    x: Array,
    weight: Array,
    bias: Array,
    targets: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Any:
    t = _places(x, weight, bias, targets, ignore_index)
    if t is None:
        return NotImplemented
    real = t >= 0
    n_real = int(np.count_nonzero(real))
    rows_of_x = rows(x) if n_real == len(t) else rows(x)[real]
    gradients = _gradients(rows_of_x, weight, bias) if is_recording() else None
    losses = np.empty(n_real, np.float32)
    if n_real:
        constants = np.float32(label_smoothing), np.float32(z_loss), np.float32(1 / n_real)
        step = max(FEWEST_ROWS, CHUNK // len(weight))
        through = losses_and_gradients if has_avx512() else _through_chunks
        through(rows_of_x, weight, bias, t[real], constants, losses, gradients, step)
    loss = np.asarray(losses.sum(dtype=np.float64) / max(n_real, 1), np.float32)
    if gradients is None:
        return loss, (None, None, None)
    return loss, (_at(real, gradients[0]).reshape(x.shape), *gradients[1:])


def _at(real: Array, dx: Array) -> Array:
    """The gradients of real rows in their places, and zeros between them."""
    if len(dx) == len(real):
        return dx
    everywhere = np.zeros((len(real), dx.shape[1]), np.float32)
    everywhere[real] = dx
    return everywhere


def _through_chunks(
    x: Array, weight: Array, bias: Array | None, t: Array, constants: Any, losses: Array, gradients: Any, step: int
) -> None:
    """Without AVX-512: the products are BLAS's, and z and dz share one piece of memory.

    Fill `losses` and, unless they are None, `gradients` (dx, dW, db); all targets are real.
    """
    memory = aligned_empty((min(len(x), step), len(weight)))
    for i in range(0, len(x), step):
        some, z = x[i : i + step], memory[: len(x) - i]
        product(some, weight, z, transpose_b=True, bias=bias)
        run(_losses_and_slopes, z.size, z, t[i : i + step], *constants, losses[i : i + step], gradients is not None)
        if gradients:
            dx, dweight, dbias = gradients
            product(z, weight, dx[i : i + step])
            product(z, some, dweight, transpose_a=True, accumulate=i > 0)
            if dbias is not None:
                dbias += z.sum(axis=0)


def _backward(
    xp: ArrayModule,
    dy: Array,
    dx: Array,
    dweight: Array,
    dbias: Array,
    *,
    needs: Needs,
    into: Into,
    **settings: Any,
) -> Any:
    """Each gradient times dy, added to the leaf's where it has one"""
    factor = np.float32(dy)
    return *(
        _times(factor, gradient, target) if wanted else None
        for gradient, target, wanted in zip((dx, dweight, dbias), into, needs, strict=False)
    ), None


def _times(factor: Any, gradient: Array, target: Array | None) -> Any:
    if target is None or not target.flags.carray:
        return gradient * factor if factor != ONE else gradient
    run(_add_scaled, target.size, rows(target), rows(gradient), factor)
    return ADDED


def _gradients(x: Array, weight: Array, bias: Array | None) -> Any:
    dweight = (np.empty if len(x) else np.zeros)(weight.shape, np.float32)
    return np.empty_like(x), dweight, None if bias is None else np.zeros_like(bias)


def _places(x: Array, weight: Array, bias: Array | None, targets: Any, ignore_index: int) -> Array | None:
    """Targets as (N,) int64 with −1 where there is none; None for what the formula refuses, and says why."""
    targets = np.asarray(targets)
    if not takes(x, weight, bias) or targets.dtype.kind not in "iu" or targets.shape != x.shape[:-1]:
        return None
    if weight.ndim != 2 or x.shape[-1] != weight.shape[1] or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    t = targets.reshape(-1).astype(np.int64)
    real = t != ignore_index
    if ((t < 0) | (t >= len(weight)))[real].any():
        return None
    t[~real] = -1
    return t


linear_cross_entropy.twin(np, _forward, _backward, accumulates=True)
