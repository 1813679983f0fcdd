"""A product with int8 weights. Twin of nanograd/ops/quantized.py.

One row of x: each weight is read once, so the time is that of reading the weights, and int8 has a quarter of the bytes.
More rows: the weights are widened once, and the product is that of float32.
"""

from typing import Any

import numpy as np
from numba import njit

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cpu.gemm import product
from nanograd.kernels.cpu.matrix import as_rows
from nanograd.kernels.cpu.support import INNER, SERIAL, ZERO, first, flat, n_blocks, numbers, run, takes
from nanograd.kernels.cpu.threads import for_each
from nanograd.ops.quantized import quantized_linear


def _forward(
    xp: ArrayModule, x: Array, codes: Array, scale: Array = None, bias: Array = None, residual: Array = None
) -> Any:
    """y = (x Wqᵀ) ∘ scale + b + residual; what does not fit is left to the formula, which says so"""
    if codes.dtype != np.int8 or codes.ndim != 2 or scale is None or not takes(x, scale, bias, residual):
        return NotImplemented
    out, shape = codes.shape[:1], (*x.shape[:-1], len(codes))
    if not x.ndim or x.shape[-1] != codes.shape[1] or scale.shape != out:
        return NotImplemented
    if (bias is not None and bias.shape != out) or (residual is not None and residual.shape != shape):
        return NotImplemented
    y = np.empty(shape, np.float32)
    if len(as_rows(x)) > 1:
        rows = None if residual is None else as_rows(residual)
        weight = np.multiply(codes, scale[:, None], dtype=np.float32)
        product(as_rows(x), weight, as_rows(y), transpose_b=True, bias=bias, residual=rows)
        return y, ()
    run(_row_times_codes, codes.size, flat(x), numbers(codes), numbers(scale), y.reshape(-1), n_blocks(len(codes), 64))
    for term in (bias, residual):
        if term is not None:
            y += term
    return y, ()


@njit(**SERIAL)
def _row_times_codes(x: Array, codes: Array, scale: Array, y: Array, blocks: int) -> None:
    """y[i] = scale[i] Σ x[k] codes[i, k].   x (in,), codes (out, in), scale and y (out,); a task is a block of rows"""
    for_each(_block_times_codes, blocks, (x, codes, scale, y, blocks))


@njit(**INNER)
def _block_times_codes(block: int, x: Array, codes: Array, scale: Array, y: Array, blocks: int) -> None:
    for i in range(first(block, blocks, len(codes)), first(block + 1, blocks, len(codes))):
        row, total = codes[i], ZERO
        for k in range(len(x)):
            total += x[k] * np.float32(row[k])
        y[i] = total * scale[i]


quantized_linear.twin(np, _forward, None)
