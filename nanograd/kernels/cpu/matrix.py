"""linear and matmul by our own product. Twins of nanograd/ops/matrix.py.

No operand is transposed in memory: the product reads it in either orientation. A gradient that is there already is
added to inside the product, and so is a residual.
"""

from math import prod
from typing import Any

import numpy as np
from numba import njit

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cpu.gemm import product
from nanograd.kernels.cpu.support import INNER, SERIAL, first, n_blocks, numbers, run, takes
from nanograd.kernels.cpu.threads import for_each
from nanograd.ops.matrix import linear, matmul
from nanograd.primitive import Needs
from nanograd.tensor import ADDED, PASSED_ON

Into = tuple[Array | None, ...]


def _linear_forward(xp: ArrayModule, x: Array, weight: Array, bias: Array = None, residual: Array = None) -> Any:
    """y = x Wᵀ + b + residual, all of it inside the product"""
    if not takes(x, weight, bias, residual) or not x.ndim or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        return NotImplemented
    if bias is not None and bias.shape != weight.shape[:1]:
        return NotImplemented
    y = np.empty((*x.shape[:-1], len(weight)), np.float32)
    if residual is not None:
        if residual.shape != y.shape:
            return NotImplemented
        residual = as_rows(residual)
    product(as_rows(x), weight, as_rows(y), transpose_b=True, bias=bias, residual=residual)
    return y, (x, weight)


def _linear_backward(xp: ArrayModule, dy: Array, x: Array, weight: Array, *, needs: Needs, into: Into) -> Any:
    """dx += dy W,  dW += dyᵀ x,  db += Σ dy over all leading axes,  dresidual = dy"""
    dx = dweight = dbias = None
    if needs[0]:
        dx = product_into(into[0], x.shape, as_rows(dy), weight)
    if needs[1]:
        dweight = product_into(into[1], weight.shape, as_rows(dy), as_rows(x), transpose_a=True)
    if any(needs[2:3]):
        dbias = sum_into(into[2], as_rows(dy))
    return (dx, dweight, dbias, PASSED_ON)[: len(needs)]


def _matmul_forward(xp: ArrayModule, a: Array, b: Array) -> Any:
    """y = a b where b is a single matrix: one product over all rows of a"""
    if not takes(a, b) or a.ndim < 2 or b.ndim != 2 or a.shape[-1] != len(b):
        return NotImplemented
    y = np.empty((*a.shape[:-1], b.shape[1]), np.float32)
    product(as_rows(a), b, as_rows(y))
    return y, (a, b)


def _matmul_backward(xp: ArrayModule, dy: Array, a: Array, b: Array, *, needs: Needs, into: Into) -> Any:
    """da += dy bᵀ,  db += aᵀ dy"""
    da = db = None
    if needs[0]:
        da = product_into(into[0], a.shape, as_rows(dy), b, transpose_b=True)
    if needs[1]:
        db = product_into(into[1], b.shape, as_rows(a), as_rows(dy), transpose_a=True)
    return da, db


def product_into(
    into: Array | None,
    shape: tuple[int, ...],
    a: Array,
    b: Array,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
) -> Any:
    """into += a b, answered with ADDED; or a b as a new array of this shape, if there is no gradient yet"""
    there = into is not None and into.flags.carray
    out = into if there else np.empty(shape, np.float32)
    product(a, b, as_rows(out), transpose_a=transpose_a, transpose_b=transpose_b, accumulate=there)
    return ADDED if there else out


def sum_into(into: Array | None, x: Array) -> Any:
    """into += Σ over the rows of x, answered with ADDED; or the sum as a new array"""
    partial = np.zeros((n_blocks(len(x), 64), x.shape[1]), np.float32)
    run(_sum_blocks, x.size, numbers(x), partial)
    return add_partial_sums(into, partial)


def add_partial_sums(into: Array | None, partial: Array) -> Any:
    """into += what blocks of rows have summed up, (blocks, C), added in their order"""
    total = partial.sum(axis=0)
    if into is None:
        return total
    into += total
    return ADDED


@njit(**SERIAL)
def _sum_blocks(x: Array, partial: Array) -> None:
    """partial[b] = Σ over the rows of block b: a sum of sums is more exact than one long sum, and uses all threads"""
    for_each(_sum_block, len(partial), (x, partial))


@njit(**INNER)
def _sum_block(block: int, x: Array, partial: Array) -> None:
    total = partial[block]
    for i in range(first(block, len(partial), len(x)), first(block + 1, len(partial), len(x))):
        row = x[i]
        for j in range(len(total)):
            total[j] += row[j]


def as_rows(x: Array) -> Array:
    """(…, C) → (N, C); a view where the layout permits"""
    return x.reshape(prod(x.shape[:-1]), x.shape[-1])


linear.twin(np, _linear_forward, _linear_backward, accumulates=True)
matmul.twin(np, _matmul_forward, _matmul_backward, accumulates=True)
