"""Normalization over the last axis, and what replaces it without a mean. Sums are taken in float32 or wider."""

from typing import Any

from nanograd.backend import Array, ArrayModule
from nanograd.ops.elementwise import erf_of
from nanograd.ops.reduction import accumulator, floating
from nanograd.primitive import Needs, Value, primitive


@primitive
def layer_norm(xp: ArrayModule, x: Array, weight: Array, bias: Array, *, eps: float = 1e-5) -> Value:
    """y = w ⊙ n + b,  n = (x − μ) r,  r = 1/√(σ² + ε).   x (…, C), weight and bias (C,); bias may be None

    μ and σ² over the last axis.   Ba, Kiros & Hinton 2016, arXiv:1607.06450
    """
    _check(x, weight, bias)
    x = floating(x)
    wide = accumulator(x.dtype)
    n = x - x.mean(axis=-1, keepdims=True, dtype=wide)
    r = 1 / xp.sqrt(_mean_of_product(xp, n, n) + eps)
    n *= r
    y = n * weight
    if bias is not None:
        y += bias
    return y.astype(x.dtype, copy=False), (n, r, weight)


@layer_norm.backward
def _(xp: ArrayModule, dy: Array, n: Array, r: Array, weight: Array, *, eps: float = 1e-5, needs: Needs) -> Any:
    """dx = r (dn − ⟨dn⟩ − n ⟨dn ⊙ n⟩),  dn = dy ⊙ w,  ⟨·⟩ the mean over the last axis;  dw = Σ dy ⊙ n,  db = Σ dy"""
    dx = None
    if needs[0]:
        dn = dy * weight
        dx = n * -_mean_of_product(xp, dn, n)
        dx += dn
        dx -= dn.mean(axis=-1, keepdims=True, dtype=r.dtype)
        dx *= r
        dx = dx.astype(dy.dtype, copy=False)
    return dx, _over_rows(dy * n, weight) if needs[1] else None, _over_rows(dy, weight) if needs[2] else None


@primitive
def rms_norm(xp: ArrayModule, x: Array, weight: Array, *, eps: float = 1e-5) -> Value:
    """y = w ⊙ n,  n = x r,  r = 1/√(⟨x²⟩ + ε).   x (…, C), weight (C,).   Zhang & Sennrich 2019, arXiv:1910.07467"""
    _check(x, weight, None)
    x = floating(x)
    wide = x.astype(accumulator(x.dtype), copy=False)
    r = 1 / xp.sqrt(_mean_of_product(xp, wide, wide) + eps)
    n = wide * r
    return (n * weight).astype(x.dtype, copy=False), (n, r, weight)


@rms_norm.backward
def _(xp: ArrayModule, dy: Array, n: Array, r: Array, weight: Array, *, eps: float = 1e-5, needs: Needs) -> Any:
    """dx = r (dn − n ⟨dn ⊙ n⟩),  dn = dy ⊙ w;  dw = Σ dy ⊙ n"""
    dx = None
    if needs[0]:
        dn = dy * weight
        dx = n * -_mean_of_product(xp, dn, n)
        dx += dn
        dx *= r
        dx = dx.astype(dy.dtype, copy=False)
    return dx, _over_rows(dy * n, weight) if needs[1] else None


@primitive
def dyt(xp: ArrayModule, x: Array, alpha: Array, weight: Array, bias: Array) -> Value:
    """y = w ⊙ t + b,  t = tanh(αx).   x (…, C), alpha (1,), weight and bias (C,)

    Zhu et al. 2025, "Transformers without normalization", arXiv:2503.10622
    """
    _check(x, weight, bias)
    _check_scalars(alpha)
    x = floating(x)
    t = xp.tanh(alpha * x)
    y = t * weight
    y += bias
    return y, (x, t, alpha, weight)


@dyt.backward
def _(xp: ArrayModule, dy: Array, x: Array, t: Array, alpha: Array, weight: Array, *, needs: Needs) -> Any:
    """dx = α du,  dα = Σ du ⊙ x,  du = dy ⊙ w ⊙ (1 − t²);  dw = Σ dy ⊙ t,  db = Σ dy"""
    dx = dalpha = None
    if needs[0] or needs[1]:
        du = t * t
        du -= 1
        du *= dy
        du *= -weight
        dx, dalpha = du * alpha if needs[0] else None, _total(du * x, alpha) if needs[1] else None
    return dx, dalpha, _over_rows(dy * t, weight) if needs[2] else None, _over_rows(dy, weight) if needs[3] else None


@primitive
def derf(xp: ArrayModule, x: Array, alpha: Array, shift: Array, weight: Array, bias: Array) -> Value:
    """y = w ⊙ e + b,  e = erf(αx + s).   x (…, C), alpha and shift (1,), weight and bias (C,)

    Chen et al. 2025, "Stronger normalization-free transformers", arXiv:2512.10938
    """
    _check(x, weight, bias)
    _check_scalars(alpha, shift)
    x = floating(x)
    e = erf_of(xp, alpha * x + shift)
    y = e * weight
    y += bias
    return y, (x, e, alpha, shift, weight)


@derf.backward
def _(
    xp: ArrayModule, dy: Array, x: Array, e: Array, alpha: Array, shift: Array, weight: Array, *, needs: Needs
) -> Any:
    """dx = α du,  dα = Σ du ⊙ x,  ds = Σ du,  du = dy ⊙ w ⊙ 2/√π exp(−(αx + s)²);  dw = Σ dy ⊙ e,  db = Σ dy"""
    dx = dalpha = dshift = None
    if any(needs[:3]):
        u = alpha * x + shift
        du = xp.exp(-u * u)
        du *= dy
        du *= 1.1283791670955126 * weight  # 2/√π
        dx, dalpha = du * alpha if needs[0] else None, _total(du * x, alpha) if needs[1] else None
        dshift = _total(du, shift) if needs[2] else None
    dweight, dbias = _over_rows(dy * e, weight) if needs[3] else None, _over_rows(dy, weight) if needs[4] else None
    return dx, dalpha, dshift, dweight, dbias


def _mean_of_product(xp: ArrayModule, a: Array, b: Array) -> Array:
    """⟨a ⊙ b⟩ over the last axis, which is kept with length 1"""
    return (a * b).mean(axis=-1, keepdims=True)


def _over_rows(d: Array, weight: Array) -> Array:
    """Sum over every axis but the last."""
    total = d.reshape(-1, d.shape[-1]).sum(axis=0, dtype=accumulator(weight.dtype))
    return total.astype(weight.dtype, copy=False)


def _total(d: Array, scalar: Array) -> Array:
    """Sum over every axis, for a parameter of one number that all elements share."""
    return d.sum(dtype=accumulator(scalar.dtype)).astype(scalar.dtype, copy=False).reshape(1)


def _check_scalars(*scalars: Array) -> None:
    if any(scalar.shape != (1,) for scalar in scalars):
        raise ValueError("alpha, and shift, must have the shape (1,)")


def _check(x: Array, weight: Array, bias: Array) -> None:
    """NumPy would broadcast a wrong weight without a word."""
    if x.ndim < 1 or weight.shape != x.shape[-1:] or (bias is not None and bias.shape != weight.shape):
        raise ValueError("weight and bias must have the length of the last axis of x")
