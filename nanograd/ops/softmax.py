"""softmax and its logarithm over one axis, with a temperature."""

from typing import Any

from nanograd.backend import Array, ArrayModule
from nanograd.ops.reduction import accumulator, finite_max
from nanograd.primitive import Needs, Value, primitive


@primitive
def softmax(xp: ArrayModule, x: Array, *, axis: int = -1, temperature: float = 1.0) -> Value:
    """yᵢ = exp(xᵢ/τ) / Σⱼ exp(xⱼ/τ), max x taken off first; zeros where every xⱼ is −∞. Raises ValueError for τ ≤ 0."""
    y = _shifted(xp, x, axis, temperature)
    xp.exp(y, out=y)
    total = y.sum(axis=axis, keepdims=True, dtype=accumulator(x.dtype))
    y /= total + (total == 0)
    return y, (y,)


@softmax.backward
def _(xp: ArrayModule, dy: Array, y: Array, *, axis: int = -1, temperature: float = 1.0, needs: Needs) -> Any:
    """dxᵢ = yᵢ (dyᵢ − Σⱼ dyⱼ yⱼ) / τ"""
    dx = dy * y
    dx -= y * dx.sum(axis=axis, keepdims=True)
    if temperature != 1:
        dx /= temperature
    return dx


@primitive
def log_softmax(xp: ArrayModule, x: Array, *, axis: int = -1, temperature: float = 1.0) -> Value:
    """yᵢ = xᵢ/τ − ln Σⱼ exp(xⱼ/τ); −∞ where every xⱼ is. Raises ValueError for τ ≤ 0."""
    y = _shifted(xp, x, axis, temperature)
    total = xp.exp(y).sum(axis=axis, keepdims=True, dtype=accumulator(x.dtype))
    y -= xp.log(total + (total == 0))
    return y, (y,)


@log_softmax.backward
def _(xp: ArrayModule, dy: Array, y: Array, *, axis: int = -1, temperature: float = 1.0, needs: Needs) -> Any:
    """dxᵢ = (dyᵢ − exp(yᵢ) Σⱼ dyⱼ) / τ"""
    dx = xp.exp(y)
    dx *= -dy.sum(axis=axis, keepdims=True)
    dx += dy
    if temperature != 1:
        dx /= temperature
    return dx


def _shifted(xp: ArrayModule, x: Array, axis: int, temperature: float) -> Array:
    """(x − max x) / τ: a new array, at most 0, so that exp of it never overflows"""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    y = x - finite_max(xp, x, axis)
    if temperature != 1:
        y /= temperature
    return y
