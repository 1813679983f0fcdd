"""Matrix products."""

from math import prod
from typing import Any

from nanograd.backend import Array, ArrayModule
from nanograd.ops.reduction import accumulator
from nanograd.primitive import Needs, Value, primitive


@primitive
def matmul(xp: ArrayModule, a: Array, b: Array) -> Value:
    """y = a b over the last two axes, the others broadcast; a 1-D operand is a row (left) or a column (right)"""
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[-2 if b.ndim > 1 else -1]:
        raise ValueError("the last axis of the left must be as long as the last but one of the right")
    return xp.matmul(a, b), (a, b)


@matmul.backward
def _(xp: ArrayModule, dy: Array, a: Array, b: Array, *, needs: Needs) -> Any:
    """da = dy bᵀ,  db = aᵀ dy"""
    rows, columns = a if a.ndim > 1 else a[None, :], b if b.ndim > 1 else b[:, None]
    dy = dy if b.ndim > 1 else dy[..., None]
    dy = dy if a.ndim > 1 else dy[..., None, :]  # (…, M, N)
    da = xp.matmul(dy, columns.swapaxes(-1, -2)) if needs[0] else None
    db = _left_product(xp, rows, dy, columns.ndim) if needs[1] else None
    if da is not None and a.ndim == 1:
        da = da[..., 0, :]
    if db is not None and b.ndim == 1:
        db = db[..., 0]
    return da, db


def _left_product(xp: ArrayModule, a: Array, dy: Array, ndim: int) -> Array:
    """aᵀ dy; where b is a single matrix, one product over all rows instead of one each and a sum over them"""
    if ndim == 2:
        return _rows(a).T @ _rows(dy)
    return xp.matmul(a.swapaxes(-1, -2), dy)


@primitive
def linear(xp: ArrayModule, x: Array, weight: Array, bias: Array = None, residual: Array = None) -> Value:
    """y = x Wᵀ + b + residual.   x (…, in), weight (out, in), bias (out,) → y (…, out)

    bias and residual (…, out), to which a sub-layer's output is added, may be None
    """
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError("x (…, in) needs weight (out, in)")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError("bias must be (out,)")
    shape = (*x.shape[:-1], len(weight))
    if residual is not None and residual.shape != shape:
        raise ValueError(f"residual must be {shape}")
    y = _rows(x) @ weight.T  # one 2-D product, whatever the leading axes
    if bias is not None:
        y += bias
    y = y.reshape(shape)
    if residual is not None:
        y += residual
    return y, (x, weight)


@linear.backward
def _(xp: ArrayModule, dy: Array, x: Array, weight: Array, *, needs: Needs) -> Any:
    """dx = dy W,  dW = dyᵀ x,  db = Σ dy over all leading axes,  dresidual = dy"""
    dresidual, dy = dy, _rows(dy)
    dx = (dy @ weight).reshape(x.shape) if needs[0] else None
    dweight = dy.T @ _rows(x) if needs[1] else None
    dbias = dy.sum(axis=0, dtype=accumulator(dy.dtype)).astype(dy.dtype, copy=False) if any(needs[2:3]) else None
    return (dx, dweight, dbias, dresidual)[: len(needs)]


def _rows(x: Array) -> Array:
    """(…, C) → (N, C); −1 would not do for C = 0"""
    return x.reshape(prod(x.shape[:-1]), x.shape[-1])
