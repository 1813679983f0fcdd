"""Floor 3. linear and matmul by cuBLASLt. Twins of nanograd/ops/matrix.py.

No operand is transposed or repeated in memory. Bias and residual are added inside the product, a gradient that is there
already too, and the gradient of the bias is summed up by the product that reads dy for the weight's.
"""

import math
from typing import Any

import numpy as np

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cuda import cublaslt
from nanograd.kernels.cuda.gemm_problem import TYPES, is_dense
from nanograd.kernels.cuda.launch import Twin, launch, type_name
from nanograd.ops.matrix import linear, matmul
from nanograd.primitive import Needs
from nanograd.tensor import ADDED, PASSED_ON

Into = tuple[Array | None, ...]

ROWS_PER_BLOCK, MOST_BLOCKS = 128, 64  # of a sum over rows: enough for all multiprocessors, few enough to add up


def takes(*arrays: Array | None) -> bool:
    """Are these arrays (or None) of one type that cuBLASLt multiplies, and not empty?"""
    there = [x for x in arrays if x is not None]
    return all(x.dtype == there[0].dtype and x.size for x in there) and there[0].dtype.name in TYPES


def rows(xp: ArrayModule, x: Array) -> Array:
    """(…, C) → (N, C), of which one axis is dense; a view where the layout permits"""
    return dense(xp, x.reshape(math.prod(x.shape[:-1]), x.shape[-1]))


def _linear_forward(xp: ArrayModule, x: Array, weight: Array, bias: Array = None, residual: Array = None) -> Any:
    """y = x Wᵀ + b + residual, all of it inside the product"""
    if not takes(x, weight, bias, residual) or not x.ndim or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        return NotImplemented
    shape = (*x.shape[:-1], len(weight))
    if (bias is not None and bias.shape != weight.shape[:1]) or (residual is not None and residual.shape != shape):
        return NotImplemented
    return affine(xp, x, weight, bias, residual), (x, weight)


def affine(xp: ArrayModule, x: Array, weight: Array, bias: Array | None, residual: Array | None) -> Array:
    """x Wᵀ + b + residual as a new array.   x (…, in), weight (out, in) → (…, out)"""
    y = xp.empty((*x.shape[:-1], len(weight)), x.dtype)
    a, b, out = rows(xp, x), rows(xp, weight).T, y.reshape(-1, len(weight))
    added: dict[str, Any] = {}
    if residual is not None:
        added = {"addend": xp.ascontiguousarray(residual).reshape(out.shape), "beta": 1.0}
    if bias is None or not cublaslt.attempt(xp, a, b, out, epilogue="bias", bias=bias, **added):
        cublaslt.gemm(xp, a, b, out, **added)
        if bias is not None:
            out += bias
    return y


def _linear_backward(xp: ArrayModule, dy: Array, x: Array, weight: Array, *, needs: Needs, into: Into) -> Any:
    """dx += dy W,  dW += dyᵀ x,  db += Σ dy over all leading axes,  dresidual = dy"""
    dy, into = rows(xp, dy), (*into, None)
    dx = product_into(xp, into[0], x.shape, x.dtype, dy, rows(xp, weight)) if needs[0] else None
    dweight, dbias = affine_gradients(xp, dy, x, into[1], into[2], needs[1], any(needs[2:3]))
    return (dx, dweight, dbias, PASSED_ON)[: len(needs)]


def affine_gradients(
    xp: ArrayModule,
    dy: Array,
    x: Array,
    weight_into: Array | None,
    bias_into: Array | None,
    weight_needs: bool,
    bias_needs: bool,
) -> tuple[Any, Any]:
    """dW += dyᵀ x and db += Σ dy, both float32 unless they are there in another type.   dy (N, out), x (…, in)"""
    if not weight_needs:
        return None, column_sums(xp, dy, bias_into) if bias_needs else None
    x = rows(xp, x)
    shape, a = (dy.shape[1], x.shape[1]), dy.T
    if bias_needs:
        out, there = _target(xp, weight_into, shape, np.float32)
        sums = xp.empty(dy.shape[1], out.dtype)
        if cublaslt.attempt(xp, a, x, out, beta=float(there), epilogue="bgrad_a", bias=sums):
            if bias_into is not None:
                bias_into += sums
            return ADDED if there else out, sums if bias_into is None else ADDED
    dweight = product_into(xp, weight_into, shape, np.float32, a, x)
    return dweight, column_sums(xp, dy, bias_into) if bias_needs else None


def column_sums(xp: ArrayModule, dy: Array, into: Array | None) -> Any:
    """into += Σ over the rows of dy (N, C), answered with ADDED; or the sum as a new float32 array"""
    dy, (N, C) = xp.ascontiguousarray(dy), dy.shape
    blocks = min(math.ceil(N / ROWS_PER_BLOCK), MOST_BLOCKS)
    partial = xp.empty((blocks, C), np.float32)
    columns = 32 * (16 // dy.itemsize if C * dy.itemsize % 16 == 0 and dy.data.ptr % 16 == 0 else 1)
    launch(xp, f"column_sums_{type_name(dy.dtype)}", (math.ceil(C / columns), blocks), 256, dy, partial, N, C)
    out, there = _target(xp, into, (C,), np.float32)
    name = f"add_partial_sums_{type_name(out.dtype)}"
    launch(xp, name, math.ceil(C / 256), 256, partial, out, blocks, C, int(there))
    return ADDED if there else out


def product_into(
    xp: ArrayModule, into: Array | None, shape: tuple[int, ...], dtype: Any, a: Array, b: Array, **settings: Any
) -> Any:
    """into += a b, answered with ADDED; or a b as a new array of this shape and type, if there is no gradient yet"""
    out, there = _target(xp, into, shape, dtype)
    flat = out if a.ndim > 2 or b.ndim > 2 else out.reshape(-1, shape[-1])
    cublaslt.gemm(xp, a, b, flat, beta=float(there), **settings)
    return ADDED if there else out


def _target(xp: ArrayModule, into: Array | None, shape: tuple[int, ...], dtype: Any) -> tuple[Array, bool]:
    """What to write a gradient to: one that is there, if it lies row by row, to be added to; or a new array."""
    if into is not None and into.flags.c_contiguous and into.dtype in (dtype, np.float32):
        return into, True
    return xp.empty(shape, dtype), False


def _matmul_forward(xp: ArrayModule, a: Array, b: Array) -> Any:
    """y = a b. Rows of all leading axes are one product where b is a single matrix, else there is one for each"""
    if not takes(a, b) or a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        return NotImplemented
    try:
        leading = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        return NotImplemented  # the formula says what is wrong
    y = xp.empty((*leading, a.shape[-2], b.shape[-1]), a.dtype)
    if b.ndim == 2:
        cublaslt.gemm(xp, rows(xp, a), dense(xp, b), y.reshape(-1, y.shape[-1]))
    else:
        cublaslt.gemm(xp, dense(xp, a), dense(xp, b), y)
    return y, (a, b)


def _matmul_backward(xp: ArrayModule, dy: Array, a: Array, b: Array, *, needs: Needs, into: Into) -> Any:
    """da += dy bᵀ,  db += aᵀ dy; an operand that was broadcast gets its gradient at full size, for the engine to sum"""
    da = db = None
    if b.ndim == 2:
        dy = rows(xp, dy)
        if needs[0]:
            da = product_into(xp, into[0], a.shape, a.dtype, dy, dense(xp, b), transpose_b=True)
        if needs[1]:
            db = product_into(xp, into[1], b.shape, np.float32, rows(xp, a), dy, transpose_a=True)
        return da, db
    dy, leading = dense(xp, dy), dy.shape[:-2]
    if needs[0]:
        full = (*leading, *a.shape[-2:])
        da = product_into(xp, _if_whole(into[0], full), full, a.dtype, dy, dense(xp, b), transpose_b=True)
    if needs[1]:
        full = (*leading, *b.shape[-2:])
        db = product_into(xp, _if_whole(into[1], full), full, b.dtype, dense(xp, a), dy, transpose_a=True)
    return da, db


def _if_whole(into: Array | None, shape: tuple[int, ...]) -> Array | None:
    return into if into is not None and into.shape == shape else None


def dense(xp: ArrayModule, x: Array) -> Array:
    """x, or a copy if neither of its last two axes is dense"""
    return x if is_dense(x) else xp.ascontiguousarray(x)


TWINS = (
    Twin(linear, _linear_forward, _linear_backward, accumulates=True),
    Twin(matmul, _matmul_forward, _matmul_backward, accumulates=True),
)
