"""layer_norm and rms_norm, a row at a time while it is in the cache. Twins of nanograd/ops/normalization.py.

They keep x and two numbers for each row instead of the normalized rows, which backward makes again. In a block x is
also the residual stream, and has a gradient waiting for it: backward adds to that in the same pass.
"""

from typing import Any

import numpy as np
from numba import njit

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cpu.support import INNER, ONE, SERIAL, ZERO, first, n_blocks, numbers, rows, run, takes
from nanograd.kernels.cpu.threads import for_each
from nanograd.ops.normalization import layer_norm, rms_norm
from nanograd.primitive import Needs
from nanograd.tensor import ADDED

Into = tuple[Array | None, ...]
ROWS_PER_BLOCK = 16  # at least: a block ends with sums as long as a row, which are added up in one thread


@njit(**SERIAL)
def _layer_norm(x: Array, weight: Array, bias: Array, eps: Any, y: Array, mean: Array, r: Array) -> None:
    """y = (x − μ) r w + b,  r = 1/√(σ² + ε).   x, y (N, C), mean and r (N,)"""
    for_each(_layer_norm_block, n_tasks(len(x)), (x, weight, bias, eps, y, mean, r))


@njit(**INNER)
def n_tasks(n: int) -> int:
    """Into how many tasks to cut n rows of which each is finished by itself."""
    return (n + ROWS_PER_BLOCK - 1) // ROWS_PER_BLOCK


@njit(**INNER)
def _layer_norm_block(
    task: int, x: Array, weight: Array, bias: Array, eps: Any, y: Array, mean: Array, r: Array
) -> None:
    N, C = x.shape
    for i in range(task * ROWS_PER_BLOCK, min(N, (task + 1) * ROWS_PER_BLOCK)):
        xi, yi = x[i], y[i]
        total, squares = ZERO, ZERO
        for j in range(C):
            total += xi[j]
        m = total / np.float32(C)
        for j in range(C):
            squares += (xi[j] - m) * (xi[j] - m)
        ri = ONE / np.sqrt(squares / np.float32(C) + eps)
        for j in range(C):
            yi[j] = (xi[j] - m) * ri * weight[j] + bias[j]
        mean[i], r[i] = m, ri


@njit(**INNER)
def _layer_norm_slope(dy: Array, x: Array, weight: Array, m: Any, r: Any, dx: Array, add: bool) -> None:
    """One row: dx = r (dn − ⟨dn⟩ − n ⟨dn ⊙ n⟩),  dn = dy ⊙ w,  n = (x − m) r; on top of what dx holds if `add`"""
    C = len(x)
    mean, along = ZERO, ZERO
    for j in range(C):
        mean += dy[j] * weight[j]
        along += dy[j] * weight[j] * (x[j] - m)
    mean /= np.float32(C)
    along *= r / np.float32(C)
    for j in range(C):
        slope = r * (dy[j] * weight[j] - mean - (x[j] - m) * r * along)
        dx[j] = dx[j] + slope if add else slope


@njit(**SERIAL)
def _layer_norm_backward(
    dy: Array, x: Array, weight: Array, mean: Array, r: Array, dx: Array, add: bool, dweight: Array, dbias: Array
) -> None:
    """dx as above; dweight and dbias (blocks, C), zeros at first, receive Σ dy ⊙ n and Σ dy of each block of rows"""
    for_each(_layer_norm_backward_block, len(dweight), (dy, x, weight, mean, r, dx, add, dweight, dbias))


@njit(**INNER)
def _layer_norm_backward_block(
    block: int,
    dy: Array,
    x: Array,
    weight: Array,
    mean: Array,
    r: Array,
    dx: Array,
    add: bool,
    dweight: Array,
    dbias: Array,
) -> None:
    (N, C), blocks, dw, db = x.shape, len(dweight), dweight[block], dbias[block]
    for i in range(first(block, blocks, N), first(block + 1, blocks, N)):
        dyi, xi, m, ri = dy[i], x[i], mean[i], r[i]
        _layer_norm_slope(dyi, xi, weight, m, ri, dx[i], add)
        for j in range(C):
            dw[j] += dyi[j] * ((xi[j] - m) * ri)
            db[j] += dyi[j]


@njit(**SERIAL)
def _rms_norm(x: Array, weight: Array, eps: Any, y: Array, r: Array) -> None:
    """y = x r w,  r = 1/√(⟨x²⟩ + ε).   x, y (N, C), r (N,)"""
    for_each(_rms_norm_block, n_tasks(len(x)), (x, weight, eps, y, r))


@njit(**INNER)
def _rms_norm_block(task: int, x: Array, weight: Array, eps: Any, y: Array, r: Array) -> None:
    N, C = x.shape
    for i in range(task * ROWS_PER_BLOCK, min(N, (task + 1) * ROWS_PER_BLOCK)):
        xi, yi = x[i], y[i]
        squares = ZERO
        for j in range(C):
            squares += xi[j] * xi[j]
        ri = ONE / np.sqrt(squares / np.float32(C) + eps)
        for j in range(C):
            yi[j] = xi[j] * ri * weight[j]
        r[i] = ri


@njit(**INNER)
def _rms_norm_slope(dy: Array, x: Array, weight: Array, r: Any, dx: Array, add: bool) -> None:
    """One row: dx = r (dn − n ⟨dn ⊙ n⟩),  dn = dy ⊙ w,  n = x r; on top of what dx holds if `add`"""
    C = len(x)
    along = ZERO
    for j in range(C):
        along += dy[j] * weight[j] * (x[j] * r)
    along /= np.float32(C)
    for j in range(C):
        slope = r * (dy[j] * weight[j] - x[j] * r * along)
        dx[j] = dx[j] + slope if add else slope


@njit(**SERIAL)
def _rms_norm_backward(dy: Array, x: Array, weight: Array, r: Array, dx: Array, add: bool, dweight: Array) -> None:
    """dx as above; dweight (blocks, C) begins with zeros and receives Σ dy ⊙ n of each block of rows"""
    for_each(_rms_norm_backward_block, len(dweight), (dy, x, weight, r, dx, add, dweight))


@njit(**INNER)
def _rms_norm_backward_block(
    block: int, dy: Array, x: Array, weight: Array, r: Array, dx: Array, add: bool, dweight: Array
) -> None:
    (N, C), blocks, dw = x.shape, len(dweight), dweight[block]
    for i in range(first(block, blocks, N), first(block + 1, blocks, N)):
        dyi, xi, ri = dy[i], x[i], r[i]
        _rms_norm_slope(dyi, xi, weight, ri, dx[i], add)
        for j in range(C):
            dw[j] += dyi[j] * (xi[j] * ri)


def _layer_norm_forward(xp: ArrayModule, x: Array, weight: Array, bias: Array, *, eps: float = 1e-5) -> Any:
    if not takes(x, weight, bias) or x.ndim < 1 or weight.shape != x.shape[-1:]:
        return NotImplemented
    if bias is not None and bias.shape != weight.shape:
        return NotImplemented
    x2, weight = rows(x), numbers(weight)
    bias = np.zeros_like(weight) if bias is None else numbers(bias)
    y, (mean, r) = np.empty_like(x2), np.empty((2, len(x2)), np.float32)
    run(_layer_norm, x2.size, x2, weight, bias, np.float32(eps), y, mean, r)
    return y.reshape(x.shape), (x2, mean, r, weight)


def _layer_norm_gradients(
    xp: ArrayModule,
    dy: Array,
    x: Array,
    mean: Array,
    r: Array,
    weight: Array,
    *,
    eps: float = 1e-5,
    needs: Needs,
    into: Into,
) -> Any:
    dx, there = _place(into[0], dy)
    dweight, dbias = np.zeros((2, n_blocks(len(x), ROWS_PER_BLOCK), len(weight)), np.float32)
    run(_layer_norm_backward, x.size, rows(dy), x, weight, mean, r, dx.reshape(x.shape), there, dweight, dbias)
    sums = [part.sum(axis=0) if needed else None for part, needed in zip((dweight, dbias), needs[1:], strict=True)]
    return ADDED if there else dx, *sums


def _place(gradient: Array | None, dy: Array) -> tuple[Array, bool]:
    """Where dx goes, and whether it is added there: to the gradient that waits, or to a new array."""
    if gradient is not None and gradient.flags.carray:
        return gradient, True
    return np.empty(dy.shape, np.float32), False


def _rms_norm_forward(xp: ArrayModule, x: Array, weight: Array, *, eps: float = 1e-5) -> Any:
    if not takes(x, weight) or x.ndim < 1 or weight.shape != x.shape[-1:]:
        return NotImplemented
    x2, weight = rows(x), numbers(weight)
    y, r = np.empty_like(x2), np.empty(len(x2), np.float32)
    run(_rms_norm, x2.size, x2, weight, np.float32(eps), y, r)
    return y.reshape(x.shape), (x2, r, weight)


def _rms_norm_gradients(
    xp: ArrayModule, dy: Array, x: Array, r: Array, weight: Array, *, eps: float = 1e-5, needs: Needs, into: Into
) -> Any:
    dx, there = _place(into[0], dy)
    dweight = np.zeros((n_blocks(len(x), ROWS_PER_BLOCK), len(weight)), np.float32)
    run(_rms_norm_backward, x.size, rows(dy), x, weight, r, dx.reshape(x.shape), there, dweight)
    return ADDED if there else dx, dweight.sum(axis=0) if needs[1] else None


layer_norm.twin(np, _layer_norm_forward, _layer_norm_gradients, accumulates=True)
rms_norm.twin(np, _rms_norm_forward, _rms_norm_gradients, accumulates=True)
