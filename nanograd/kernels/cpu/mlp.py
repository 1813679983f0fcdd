"""The MLP: two products, and between them one pass. Twin of nanograd/ops/mlp.py.

Backward makes f(u) again, du and the sums of du's rows in one pass over u and dy W₂. Cutting the rows into strips that
fit the caches did not pay: more calls, and weights read more often.
"""

from typing import Any

import numpy as np
from numba import njit

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cpu.activation import gelu_at, gelu_tanh_at, relu_at, relu_squared_at, silu_at
from nanograd.kernels.cpu.gemm import product
from nanograd.kernels.cpu.matrix import Into, add_partial_sums, as_rows, product_into, sum_into
from nanograd.kernels.cpu.support import INNER, SERIAL, first, n_blocks, run, takes
from nanograd.kernels.cpu.threads import for_each
from nanograd.ops.mlp import Activation, mlp
from nanograd.primitive import Needs
from nanograd.tensor import PASSED_ON

ROWS_PER_BLOCK = 16
KINDS = {"relu": 0, "relu2": 1, "silu": 2, "gelu": 3, "gelu-tanh": 4}
RELU, RELU2, SILU, GELU, GELU_TANH = range(5)


@njit(**SERIAL)
def _bend(kind: int, u: Array, hidden: Array) -> None:
    """hidden = f(u).   u, hidden (N, F)"""
    blocks = (len(u) + ROWS_PER_BLOCK - 1) // ROWS_PER_BLOCK
    for_each(_bend_block, blocks, (blocks, kind, u, hidden))


@njit(**INNER)
def _bend_block(block: int, blocks: int, kind: int, u: Array, hidden: Array) -> None:
    F = hidden.shape[1]
    for i in range(first(block, blocks, len(u)), first(block + 1, blocks, len(u))):
        ui, h = u[i], hidden[i]
        if kind == RELU:
            for j in range(F):
                h[j] = relu_at(ui[j])[0]
        elif kind == RELU2:
            for j in range(F):
                h[j] = relu_squared_at(ui[j])[0]
        elif kind == SILU:
            for j in range(F):
                h[j] = silu_at(ui[j])[0]
        elif kind == GELU:
            for j in range(F):
                h[j] = gelu_at(ui[j])[0]
        else:
            for j in range(F):
                h[j] = gelu_tanh_at(ui[j])[0]


@njit(**SERIAL)
def _bend_backward(kind: int, d: Array, u: Array, hidden: Array, sums: Array) -> None:
    """du = d f′(u) in d's place,  hidden = f(u),  sums (blocks, F) += the rows of du, block by block

    d holds dhidden (N, F) at first.
    """
    for_each(_bend_backward_block, len(sums), (kind, d, u, hidden, sums))


@njit(**INNER)
def _bend_backward_block(block: int, kind: int, d: Array, u: Array, hidden: Array, sums: Array) -> None:
    (N, F), blocks, total = d.shape, len(sums), sums[block]
    for i in range(first(block, blocks, N), first(block + 1, blocks, N)):
        di, ui, h = d[i], u[i], hidden[i]
        if kind == RELU:
            for j in range(F):
                h[j], slope = relu_at(ui[j])
                di[j] *= slope
        elif kind == RELU2:
            for j in range(F):
                h[j], slope = relu_squared_at(ui[j])
                di[j] *= slope
        elif kind == SILU:
            for j in range(F):
                h[j], slope = silu_at(ui[j])
                di[j] *= slope
        elif kind == GELU:
            for j in range(F):
                h[j], slope = gelu_at(ui[j])
                di[j] *= slope
        else:
            for j in range(F):
                h[j], slope = gelu_tanh_at(ui[j])
                di[j] *= slope
        for j in range(len(total)):
            total[j] += di[j]


# swiglu by itself: who uses one kind should not wait while the other is compiled


@njit(**SERIAL)
def _gate(u: Array, hidden: Array) -> None:
    """hidden = silu(g) v,  u = [g | v].   u (N, 2F), hidden (N, F)"""
    blocks = (len(u) + ROWS_PER_BLOCK - 1) // ROWS_PER_BLOCK
    for_each(_gate_block, blocks, (blocks, u, hidden))


@njit(**INNER)
def _gate_block(block: int, blocks: int, u: Array, hidden: Array) -> None:
    F = hidden.shape[1]
    for i in range(first(block, blocks, len(u)), first(block + 1, blocks, len(u))):
        gate, up, h = u[i, :F], u[i, F:], hidden[i]
        for j in range(F):
            h[j] = silu_at(gate[j])[0] * up[j]


@njit(**SERIAL)
def _gate_backward(d: Array, u: Array, hidden: Array, du: Array, sums: Array) -> None:
    """du (N, 2F) from d = dhidden (N, F),  hidden = f(u),  sums (blocks, 2F) += the rows of du, block by block"""
    for_each(_gate_backward_block, len(sums), (d, u, hidden, du, sums))


@njit(**INNER)
def _gate_backward_block(block: int, d: Array, u: Array, hidden: Array, du: Array, sums: Array) -> None:
    (N, F), blocks, total = d.shape, len(sums), sums[block]
    for i in range(first(block, blocks, N), first(block + 1, blocks, N)):
        di, h, dui = d[i], hidden[i], du[i]
        gate, up, dgate, dup = u[i, :F], u[i, F:], dui[:F], dui[F:]
        for j in range(F):
            opened, slope = silu_at(gate[j])
            h[j] = opened * up[j]
            dgate[j] = di[j] * up[j] * slope
            dup[j] = di[j] * opened
        for j in range(len(total)):
            total[j] += dui[j]


def _forward(
    xp: ArrayModule,
    x: Array,
    up: Array,
    up_bias: Array,
    down: Array,
    down_bias: Array,
    residual: Array = None,
    *,
    activation: Activation,
) -> Any:
    if not _fit(x, up, up_bias, down, down_bias, residual, activation):
        return NotImplemented
    y, n = np.empty((*x.shape[:-1], len(down)), np.float32), x.size // x.shape[-1]
    u, hidden = np.empty((n, len(up)), np.float32), np.empty((n, down.shape[1]), np.float32)
    product(as_rows(x), up, u, transpose_b=True, bias=up_bias)
    if activation == "swiglu":
        run(_gate, u.size, u, hidden)
    else:
        run(_bend, u.size, KINDS[activation], u, hidden)
    residual = None if residual is None else as_rows(residual)
    product(hidden, down, as_rows(y), transpose_b=True, bias=down_bias, residual=residual)
    return y, (x, u, up, down)


def _fit(x: Array, up: Array, up_bias: Array, down: Array, down_bias: Array, residual: Array, activation: str) -> bool:
    """Are these float32 arrays of shapes that belong together? If not, the formula says what is wrong."""
    if not takes(x, up, up_bias, down, down_bias, residual):
        return False
    if (
        activation not in (*KINDS, "swiglu")
        or not x.ndim
        or up.ndim != 2
        or down.ndim != 2
        or x.shape[-1] != up.shape[1]
    ):
        return False
    halves = 2 if activation == "swiglu" else 1
    fits = len(up) == halves * down.shape[1] and (up_bias is None or up_bias.shape == up.shape[:1])
    fits = fits and (down_bias is None or down_bias.shape == down.shape[:1])
    return fits and (residual is None or residual.shape == (*x.shape[:-1], len(down)))


def _backward(
    xp: ArrayModule,
    dy: Array,
    x: Array,
    u: Array,
    up: Array,
    down: Array,
    *,
    activation: Activation,
    needs: Needs,
    into: Into,
) -> Any:
    """dhidden = dy W₂, then f(u) and du, then the gradients of W₂, x and W₁"""
    x2, dy2 = as_rows(x), as_rows(dy)
    d, hidden = np.empty((2, len(u), down.shape[1]), np.float32)
    sums = np.zeros((n_blocks(len(u), ROWS_PER_BLOCK), len(up)), np.float32)
    product(dy2, down, d)
    if activation == "swiglu":
        du = np.empty_like(u)
        run(_gate_backward, u.size, d, u, hidden, du, sums)
    else:
        du = d
        run(_bend_backward, u.size, KINDS[activation], d, u, hidden, sums)
    ddown = product_into(into[3], down.shape, dy2, hidden, transpose_a=True) if needs[3] else None
    ddown_bias = sum_into(into[4], dy2) if needs[4] else None
    dx = product_into(into[0], x.shape, du, up) if needs[0] else None
    dup = product_into(into[1], up.shape, du, x2, transpose_a=True) if needs[1] else None
    dup_bias = add_partial_sums(into[2], sums) if needs[2] else None
    return (dx, dup, dup_bias, ddown, ddown_bias, PASSED_ON)[: len(needs)]


mlp.twin(np, _forward, _backward, accumulates=True)
