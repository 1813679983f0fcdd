"""The bends between two linear maps: sigmoid, ReLU, ReLU², GELU, SiLU, SwiGLU. Their slope is computed from x again."""

from typing import Any, Literal, TypeAlias

import numpy as np

from nanograd.backend import Array, ArrayModule
from nanograd.ops.elementwise import erf_of
from nanograd.primitive import Needs, Value, primitive

Gelu: TypeAlias = Literal["none", "tanh"]


def _sigmoid(xp: ArrayModule, x: Array) -> Array:
    """1 / (1 + e⁻ˣ) for x ≥ 0 and eˣ / (1 + eˣ) for x < 0: e to a negative power never overflows"""
    e = xp.exp(-xp.abs(x))
    y = xp.maximum(e, x >= 0)
    y /= 1 + e
    return y


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
def relu_squared(xp: ArrayModule, x: Array) -> Value:
    """y = max(x, 0)².   So et al. 2021, Primer, arXiv:2109.08668"""
    y = xp.maximum(x, 0)
    y *= y
    return y, (x,)


@relu_squared.backward
def _(xp: ArrayModule, dy: Array, x: Array, *, needs: Needs) -> Any:
    """dx = 2 max(x, 0) dy"""
    dx = xp.maximum(x, 0)
    dx *= 2
    dx *= dy
    return dx


@primitive
def silu(xp: ArrayModule, x: Array) -> Value:
    """y = x σ(x).   Elfwing, Uchibe & Doya 2017, arXiv:1702.03118"""
    return x * _sigmoid(xp, x), (x,)


@silu.backward
def _(xp: ArrayModule, dy: Array, x: Array, *, needs: Needs) -> Any:
    """dx = dy σ (1 + x (1 − σ))"""
    dx = _slope_silu(x, _sigmoid(xp, x))
    dx *= dy
    return dx


def _slope_silu(x: Array, s: Array) -> Array:
    slope = 1 - s
    slope *= x
    slope += 1
    slope *= s
    return slope


@primitive
def swiglu(xp: ArrayModule, x: Array) -> Value:
    """y = silu(g) ⊙ u,  x = [g | u].   x (…, 2F) → y (…, F): a linear map and its gate.   Shazeer 2020, 2002.05202"""
    if x.ndim < 1 or x.shape[-1] % 2:
        raise ValueError("x must be (…, 2F): gates, then what they let through")
    gate, up = _gate_and_up(x)
    y = _sigmoid(xp, gate)
    y *= gate
    y *= up
    return y, (x,)


@swiglu.backward
def _(xp: ArrayModule, dy: Array, x: Array, *, needs: Needs) -> Any:
    """dg = dy ⊙ u ⊙ silu′(g),  du = dy ⊙ silu(g)"""
    (gate, up), dx = _gate_and_up(x), xp.empty(x.shape, x.dtype)
    s, (dgate, dup) = _sigmoid(xp, gate), _gate_and_up(dx)
    dgate[...] = _slope_silu(gate, s)
    dgate *= up
    dgate *= dy
    s *= gate
    dup[...] = s
    dup *= dy
    return dx


def _gate_and_up(x: Array) -> tuple[Array, Array]:
    """(…, 2F) → two views (…, F)"""
    F = x.shape[-1] // 2
    return x[..., :F], x[..., F:]


@primitive
def gelu(xp: ArrayModule, x: Array, *, approximate: Gelu = "none") -> Value:
    """y = x Φ(x), Φ the normal distribution function, or its tanh approximation.   Hendrycks & Gimpel 2016, 1606.08415

    none  Φ(x) = ½ (1 + erf(x/√2)), kept for the gradient: it is the slowest function here
    tanh  Φ(x) ≈ ½ (1 + tanh u),  u = √(2/π) (x + 0.044715 x³), as in GPT-2
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate is 'none' or 'tanh', not {approximate!r}")
    if approximate == "none":
        cdf = _normal_cdf(xp, x)
        return x * cdf, (x, cdf)
    y = _tanh_u(xp, x)
    y += 1
    y *= 0.5
    y *= x
    return y, (x, None)


@gelu.backward
def _(xp: ArrayModule, dy: Array, x: Array, cdf: Array, *, approximate: Gelu = "none", needs: Needs) -> Any:
    dx = _slope_tanh(xp, x) if cdf is None else _slope_exact(xp, x, cdf)
    dx *= dy
    return dx


def _normal_cdf(xp: ArrayModule, x: Array) -> Array:
    """Φ(x). SciPy's erf takes seven times as long as the polynomial below, which is as good as float32 is near 1."""
    if xp is np and x.dtype == np.float32:
        return _normal_cdf_float32(x)
    cdf = erf_of(xp, 0.7071067811865476 * x)
    cdf += 1
    cdf *= 0.5
    return cdf


def _normal_cdf_float32(x: Array) -> Array:
    """1 − erf z ≈ (a₁t + a₂t² + … + a₅t⁵) exp(−z²),  t = 1/(1 + 0.3275911 z),  z = |x|/√2, to 1.5e-7.

    Abramowitz & Stegun 1964, formula 7.1.26; negative x by Φ(−x) = 1 − Φ(x).
    """
    z = np.abs(x)
    z *= 0.7071067811865476
    t = 1 / (1 + 0.3275911 * z)
    tail = 1.061405429 * t
    for a in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail += a
        tail *= t
    tail *= np.exp(-z * z)
    tail *= -0.5
    tail += 0.5  # Φ(|x|) − ½
    return 0.5 + np.copysign(tail, x)


def _slope_exact(xp: ArrayModule, x: Array, cdf: Array) -> Array:
    """Φ + x φ,  φ = exp(−x²/2) / √(2π)"""
    slope = x * x
    slope *= -0.5
    slope = xp.exp(slope)
    slope *= 0.3989422804014327
    slope *= x
    slope += cdf
    return slope


def _slope_tanh(xp: ArrayModule, x: Array) -> Array:
    """½ (1 + t) (1 + (1 − t) x u′),  t = tanh u,  u′ = √(2/π) (1 + 3 · 0.044715 x²)"""
    x = xp.clip(x, -16, 16)  # beyond, t is ±1 to the last bit; in float16 x² would overflow
    t = _tanh_u(xp, x)
    slope = x * x
    slope *= 0.10703222440890037
    slope += 0.7978845608028654
    slope *= x
    slope -= slope * t
    slope += 1
    t += 1
    t *= 0.5
    slope *= t
    return slope


def _tanh_u(xp: ArrayModule, x: Array) -> Array:
    """tanh(√(2/π) (x + 0.044715 x³))"""
    u = x * x
    u *= 0.035677408136300125
    u += 0.7978845608028654
    u *= x
    return xp.tanh(u)
