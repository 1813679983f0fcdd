"""The bends between two linear maps: sigmoid, ReLU, GELU, SiLU. They keep x alone and compute their slope from it."""

from typing import Any, Literal, TypeAlias

from nanograd.backend import Array, ArrayModule, special_functions
from nanograd.primitive import Needs, Value, primitive

Gelu: TypeAlias = Literal["none", "tanh"]


def _sigmoid(xp: ArrayModule, x: Array) -> Array:
    """1 / (1 + e⁻ˣ) for x ≥ 0 and eˣ / (1 + eˣ) for x < 0: e to a negative power never overflows"""
    e = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1, e) / (1 + e)


@primitive
def sigmoid(xp: ArrayModule, x: Array) -> Value:
    """y = σ(x) = 1 / (1 + e⁻ˣ)"""
    y = _sigmoid(xp, x)
    return y, (y,)


@sigmoid.backward
def _(xp: ArrayModule, dy: Array, y: Array, *, needs: Needs) -> Any:
    return dy * y * (1 - y)


@primitive
def relu(xp: ArrayModule, x: Array) -> Value:
    """y = max(x, 0)"""
    y = xp.maximum(x, 0)
    return y, (y,)


@relu.backward
def _(xp: ArrayModule, dy: Array, y: Array, *, needs: Needs) -> Any:
    """dx = dy where x > 0, else 0"""
    return dy * (y > 0)


@primitive
def silu(xp: ArrayModule, x: Array) -> Value:
    """y = x σ(x).   Elfwing, Uchibe & Doya 2017, arXiv:1702.03118"""
    return x * _sigmoid(xp, x), (x,)


@silu.backward
def _(xp: ArrayModule, dy: Array, x: Array, *, needs: Needs) -> Any:
    """dx = dy σ (1 + x (1 − σ))"""
    s = _sigmoid(xp, x)
    return dy * (s * (1 + x * (1 - s)))


@primitive
def gelu(xp: ArrayModule, x: Array, *, approximate: Gelu = "none") -> Value:
    """y = x Φ(x), Φ the normal distribution function, or its tanh approximation.   Hendrycks & Gimpel 2016, 1606.08415

    none  Φ(x) = ½ (1 + erf(x/√2))
    tanh  Φ(x) ≈ ½ (1 + tanh u),  u = √(2/π) (x + 0.044715 x³), as in GPT-2
    """
    if approximate == "none":
        return x * _normal_cdf(xp, x), (x,)
    if approximate == "tanh":
        return 0.5 * x * (1 + _tanh_u(xp, x)), (x,)
    raise ValueError(f"approximate is 'none' or 'tanh', not {approximate!r}")


@gelu.backward
def _(xp: ArrayModule, dy: Array, x: Array, *, approximate: Gelu = "none", needs: Needs) -> Any:
    """none  dx = dy (Φ + x φ),  φ = exp(−x²/2) / √(2π)
    tanh  dx = dy (½ (1 + t) + ½ x (1 − t²) u′),  t = tanh u,  u′ = √(2/π) (1 + 3 · 0.044715 x²)
    """
    if approximate == "none":
        return dy * (_normal_cdf(xp, x) + x * (0.3989422804014327 * xp.exp(-0.5 * x * x)))
    t = _tanh_u(xp, x)
    du = 0.7978845608028654 * (1 + 0.134145 * x * x)
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du)


def _normal_cdf(xp: ArrayModule, x: Array) -> Array:
    return 0.5 * (1 + special_functions(xp).erf(0.7071067811865476 * x))


def _tanh_u(xp: ArrayModule, x: Array) -> Array:
    return xp.tanh(0.7978845608028654 * x * (1 + 0.044715 * x * x))
