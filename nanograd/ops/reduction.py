"""Many numbers into one, over any axes: sum, mean, max, min, var, logsumexp.

axis  None (all), one axis or a tuple of axes; keepdims leaves them in the shape with length 1.
"""

from math import prod
from typing import Any, TypeAlias

import numpy as np

from nanograd.backend import Array, ArrayModule, accumulator, is_floating
from nanograd.primitive import Needs, Value, primitive

Axis: TypeAlias = int | tuple[int, ...] | None


def finite_max(xp: ArrayModule, x: Array, axis: Axis) -> Array:
    """max x with the axes kept, and 0 where it is infinite: x minus it is never ∞ − ∞

    np.fmax passes over NaN and is therefore twice as fast as np.max; a NaN in x reaches the result in any case.
    """
    if xp is np:
        m = np.fmax.reduce(x, axis=axis, keepdims=True, initial=-np.inf)
    else:
        m = (x.max if x.size else x.sum)(axis=axis, keepdims=True)  # max wants elements; the sum of none is 0
    return xp.where(xp.isfinite(m), m, 0)


def max_and_sum_exp(xp: ArrayModule, x: Array, axis: Axis) -> tuple[Array, Array]:
    """m = max x and Σᵢ exp(xᵢ − m), in which no exponential exceeds 1; the axes are kept"""
    m = finite_max(xp, x, axis)
    return m, xp.exp(x - m).sum(axis=axis, keepdims=True, dtype=accumulator(x.dtype))


def _spread(xp: ArrayModule, dy: Array, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> Array:
    """Give each element of `shape` the number that its reduction received (a read-only view)."""
    return xp.broadcast_to(_keep(xp, dy, axis, keepdims), shape)


def _keep(xp: ArrayModule, y: Array, axis: Axis, keepdims: bool) -> Array:
    """Put the reduced axes back with length 1."""
    return y if keepdims or axis is None else xp.expand_dims(y, axis)


def _count(shape: tuple[int, ...], axis: Axis) -> int:
    """How many elements are reduced into one."""
    axes = range(len(shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return prod(shape[i] for i in axes)


def floating(x: Array) -> Array:
    """x itself, or integers and booleans as float32"""
    return x if is_floating(x.dtype) else x.astype(np.float32)


@primitive
def sum(xp: ArrayModule, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Value:  # noqa: A001
    """y = Σᵢ xᵢ"""
    y = x.sum(axis=axis, keepdims=keepdims, dtype=accumulator(x.dtype))
    return y.astype(x.dtype) if is_floating(x.dtype) else y, (x.shape,)


@sum.backward
def _(xp: ArrayModule, dy: Array, shape: Any, *, axis: Axis = None, keepdims: bool = False, needs: Needs) -> Any:
    return _spread(xp, dy, shape, axis, keepdims)


@primitive
def mean(xp: ArrayModule, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Value:
    """y = 1/n Σᵢ xᵢ; float32 for integers and booleans. Raises ValueError for n = 0."""
    x = floating(x)
    if (n := _count(x.shape, axis)) == 0:
        raise ValueError("the mean of no elements is not defined")
    y = x.sum(axis=axis, keepdims=keepdims, dtype=accumulator(x.dtype)) / n
    return y.astype(x.dtype), (x.shape,)


@mean.backward
def _(xp: ArrayModule, dy: Array, shape: Any, *, axis: Axis = None, keepdims: bool = False, needs: Needs) -> Any:
    return _spread(xp, dy / _count(shape, axis), shape, axis, keepdims)


@primitive
def var(xp: ArrayModule, x: Array, *, axis: Axis = None, keepdims: bool = False, correction: int = 0) -> Value:
    """y = 1/(n − c) Σᵢ (xᵢ − μ)²; c = 1 gives the unbiased estimate. Raises ValueError unless n > c."""
    x = floating(x)
    if (n := _count(x.shape, axis) - correction) <= 0:
        raise ValueError(f"the variance of {n + correction} elements with correction={correction} is not defined")
    wide = accumulator(x.dtype)
    mean = x.mean(axis=axis, keepdims=True, dtype=wide)
    y = xp.square(x - mean).sum(axis=axis, keepdims=keepdims) / n
    return y.astype(x.dtype), (x, mean)


@var.backward
def _(
    xp: ArrayModule,
    dy: Array,
    x: Array,
    mean: Array,
    *,
    axis: Axis = None,
    keepdims: bool = False,
    correction: int = 0,
    needs: Needs,
) -> Any:
    """dxᵢ = dy · 2 (xᵢ − μ) / (n − c); μ's own share is 2/(n − c) Σⱼ (xⱼ − μ) · … = 0"""
    scale = 2 / (_count(x.shape, axis) - correction)
    return (_keep(xp, dy, axis, keepdims) * scale * (x - mean)).astype(x.dtype)


@primitive
def max(xp: ArrayModule, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Value:  # noqa: A001
    """y = maxᵢ xᵢ; elements that tie for it share the gradient evenly"""
    y = x.max(axis=axis, keepdims=True)
    return y if keepdims else y.squeeze(axis), (x, y)


@max.backward
def _(
    xp: ArrayModule, dy: Array, x: Array, y: Array, *, axis: Axis = None, keepdims: bool = False, needs: Needs
) -> Any:
    return _share(xp, _keep(xp, dy, axis, keepdims), x == y, axis)


@primitive
def min(xp: ArrayModule, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Value:  # noqa: A001
    """y = minᵢ xᵢ; elements that tie for it share the gradient evenly"""
    y = x.min(axis=axis, keepdims=True)
    return y if keepdims else y.squeeze(axis), (x, y)


@min.backward
def _(
    xp: ArrayModule, dy: Array, x: Array, y: Array, *, axis: Axis = None, keepdims: bool = False, needs: Needs
) -> Any:
    return _share(xp, _keep(xp, dy, axis, keepdims), x == y, axis)


def _share(xp: ArrayModule, dy: Array, chosen: Array, axis: Axis) -> Array:
    return chosen * (dy / chosen.sum(axis=axis, keepdims=True, dtype=dy.dtype))


@primitive
def logsumexp(xp: ArrayModule, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Value:
    """y = ln Σᵢ exp xᵢ, computed as m + ln Σᵢ exp(xᵢ − m) with m = max x; −∞ where every xᵢ is"""
    x = floating(x)
    m, total = max_and_sum_exp(xp, x, axis)
    nothing = total == 0
    y = xp.where(nothing, -xp.inf, m + xp.log(total + nothing)).astype(x.dtype)
    return y if keepdims else y.squeeze(axis), (x, y)


@logsumexp.backward
def _(
    xp: ArrayModule, dy: Array, x: Array, y: Array, *, axis: Axis = None, keepdims: bool = False, needs: Needs
) -> Any:
    """dxᵢ = dy exp(xᵢ − y), the softmax; 0 where every xᵢ is −∞"""
    return _keep(xp, dy, axis, keepdims) * xp.exp(x - xp.where(xp.isfinite(y), y, 0))
