"""Queries and keys at one length, row by row. Twin of nanograd/ops/head_norm.py."""

from typing import Any

import numpy as np
from numba import njit

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cpu.normalization import ROWS_PER_BLOCK, n_tasks
from nanograd.kernels.cpu.support import INNER, ONE, SERIAL, ZERO, copy_row, rows, run, takes
from nanograd.kernels.cpu.threads import for_each
from nanograd.ops.head_norm import check_packed, packed_head_norm
from nanograd.primitive import Needs


@njit(**SERIAL)
def _normalize(x: Array, eps: Any, r: Array, D: int, y: Array) -> None:
    """y = x, the heads (D,) in front each times its r.   x, y (N, 3HD), r (N, 2H)"""
    for_each(_normalize_rows, n_tasks(len(x)), (x, eps, r, D, y))


@njit(**INNER)
def _normalize_rows(task: int, x: Array, eps: Any, r: Array, D: int, y: Array) -> None:
    heads = r.shape[1]
    for i in range(task * ROWS_PER_BLOCK, min(len(x), (task + 1) * ROWS_PER_BLOCK)):
        for h in range(heads):
            xh, yh, squares = x[i, h * D : h * D + D], y[i, h * D : h * D + D], ZERO
            for j in range(D):
                squares += xh[j] * xh[j]
            rh = ONE / np.sqrt(squares / np.float32(D) + eps)
            for j in range(D):
                yh[j] = xh[j] * rh
            r[i, h] = rh
        copy_row(y[i, heads * D :], x[i, heads * D :])


@njit(**SERIAL)
def _slope(dy: Array, x: Array, r: Array, D: int, dx: Array) -> None:
    """dx = r (dy − n ⟨dy ⊙ n⟩),  n = x r;  dy for the values"""
    for_each(_slope_of_rows, n_tasks(len(x)), (dy, x, r, D, dx))


@njit(**INNER)
def _slope_of_rows(task: int, dy: Array, x: Array, r: Array, D: int, dx: Array) -> None:
    heads = r.shape[1]
    for i in range(task * ROWS_PER_BLOCK, min(len(x), (task + 1) * ROWS_PER_BLOCK)):
        for h in range(heads):
            here = slice(h * D, h * D + D)
            xh, dyh, dxh, rh, along = x[i, here], dy[i, here], dx[i, here], r[i, h], ZERO
            for j in range(D):
                along += dyh[j] * (xh[j] * rh)
            along *= rh / np.float32(D)
            for j in range(D):
                dxh[j] = rh * (dyh[j] - xh[j] * along)
        copy_row(dx[i, heads * D :], dy[i, heads * D :])


def _forward(xp: ArrayModule, qkv: Array, *, n_heads: int, eps: float = 1e-5) -> Any:
    check_packed(qkv, n_heads)
    if not takes(qkv):
        return NotImplemented
    x, y, D = rows(qkv), np.empty(qkv.shape, np.float32), qkv.shape[2] // (3 * n_heads)
    r = np.empty((len(x), 2 * n_heads), np.float32)
    run(_normalize, x.size, x, np.float32(eps), r, D, rows(y))
    return y, (x, r)


def _backward(xp: ArrayModule, dy: Array, x: Array, r: Array, *, n_heads: int, eps: float = 1e-5, needs: Needs) -> Any:
    dx = np.empty(dy.shape, np.float32)
    run(_slope, x.size, rows(dy), x, r, x.shape[1] // (3 * n_heads), rows(dx))
    return dx


packed_head_norm.twin(np, _forward, _backward)
