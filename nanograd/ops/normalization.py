"""Normalization over the last axis. Means are taken in float32 or wider."""

from typing import Any

from nanograd.backend import Array, ArrayModule
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


def _mean_of_product(xp: ArrayModule, a: Array, b: Array) -> Array:
    """⟨a ⊙ b⟩ over the last axis, which is kept with length 1"""
    return (a * b).mean(axis=-1, keepdims=True)


def _over_rows(d: Array, weight: Array) -> Array:
    """Sum over every axis but the last."""
    total = d.reshape(-1, d.shape[-1]).sum(axis=0, dtype=accumulator(weight.dtype))
    return total.astype(weight.dtype, copy=False)


def _check(x: Array, weight: Array, bias: Array) -> None:
    """NumPy would broadcast a wrong weight without a word."""
    if x.ndim < 1 or weight.shape != x.shape[-1:] or (bias is not None and bias.shape != weight.shape):
        raise ValueError("weight and bias must have the length of the last axis of x")
