"""relu, relu², silu, gelu and swiglu, number by number: one reading, one writing. Twins of nanograd/ops/activation.py.

They keep x alone: with an exponential that vectorises, Φ costs less to compute again than to read from memory.
"""

from typing import Any

import numpy as np
from numba import njit, prange

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cpu.support import INNER, ONE, PARALLEL, ZERO, exp, flat, rows, run, takes
from nanograd.ops.activation import Gelu, gelu, relu, relu_squared, silu, swiglu
from nanograd.primitive import Needs

HALF, ROOT_HALF, ROOT_2_PI = np.float32(0.5), np.float32(0.5**0.5), np.float32(0.3989422804014327)  # …, 1/√(2π)
A0, A1, A2, A3, A4, A5 = map(  # of formula 7.1.26: t = 1/(1 + A0 z)
    np.float32, (0.3275911, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
)
U1, U3 = np.float32(2 * 0.7978845608028654), np.float32(2 * 0.035677408136300125)  # 2u = U1 x + U3 x³
THREE, SATURATED = np.float32(3), np.float32(10)  # for |x| > 10 the tanh form is x or 0, and its slope 1 or 0


@njit(**INNER)
def relu_at(x: Any) -> Any:
    """max(x, 0), NaN for NaN, and its slope"""
    return (ZERO if x < ZERO else x), (ONE if x > ZERO else ZERO)


@njit(**INNER)
def relu_squared_at(x: Any) -> Any:
    """max(x, 0)², NaN for NaN, and its slope 2 max(x, 0)"""
    v = ZERO if x < ZERO else x
    return v * v, v + v


@njit(**INNER)
def _sigmoid(x: Any) -> Any:
    """1 / (1 + e⁻ˣ): for large −x it is 1/∞ = 0"""
    return ONE / (ONE + exp(-x))


@njit(**INNER)
def silu_at(x: Any) -> Any:
    """x σ(x), and its slope σ (1 + x (1 − σ))"""
    s = _sigmoid(x)
    return x * s, s * (ONE + x * (ONE - s))


@njit(**INNER)
def gelu_at(x: Any) -> Any:
    """x Φ(x), and its slope Φ + x φ,  φ = exp(−x²/2) / √(2π): one exponential for both"""
    bell = exp(-HALF * x * x)
    tail = _upper_tail(x, bell)
    cdf = tail if x < ZERO else ONE - tail
    return x * cdf, cdf + x * bell * ROOT_2_PI


@njit(**INNER)
def _upper_tail(x: Any, bell: Any) -> Any:
    """1 − Φ(|x|) = ½ (A1 t + A2 t² + … + A5 t⁵) bell,  bell = exp(−x²/2),  to 0.8e-7. Abramowitz & Stegun 7.1.26"""
    t = ONE / (ONE + A0 * ROOT_HALF * abs(x))
    return HALF * bell * t * (A1 + t * (A2 + t * (A3 + t * (A4 + t * A5))))


@njit(**INNER)
def gelu_tanh_at(x: Any) -> Any:
    """x ½ (1 + tanh u) = x σ(2u),  u = √(2/π) (x + 0.044715 x³), and its slope σ (1 + x (1 − σ) 2u′)"""
    v = SATURATED if x > SATURATED else -SATURATED if x < -SATURATED else x
    s = _sigmoid(v * (U1 + U3 * v * v))
    return x * (ZERO if x < -SATURATED else s), s * (ONE + v * (ONE - s) * (U1 + THREE * U3 * v * v))


@njit(**PARALLEL)
def _relu(x: Array, y: Array) -> None:
    for i in prange(x.size):
        y[i] = relu_at(x[i])[0]


@njit(**PARALLEL)
def _relu_backward(dy: Array, x: Array, dx: Array) -> None:
    for i in prange(x.size):
        dx[i] = dy[i] * relu_at(x[i])[1]


@njit(**PARALLEL)
def _relu_squared(x: Array, y: Array) -> None:
    for i in prange(x.size):
        y[i] = relu_squared_at(x[i])[0]


@njit(**PARALLEL)
def _relu_squared_backward(dy: Array, x: Array, dx: Array) -> None:
    for i in prange(x.size):
        dx[i] = dy[i] * relu_squared_at(x[i])[1]


@njit(**PARALLEL)
def _silu(x: Array, y: Array) -> None:
    for i in prange(x.size):
        y[i] = silu_at(x[i])[0]


@njit(**PARALLEL)
def _silu_backward(dy: Array, x: Array, dx: Array) -> None:
    for i in prange(x.size):
        dx[i] = dy[i] * silu_at(x[i])[1]


@njit(**PARALLEL)
def _gelu(x: Array, y: Array) -> None:
    for i in prange(x.size):
        y[i] = gelu_at(x[i])[0]


@njit(**PARALLEL)
def _gelu_backward(dy: Array, x: Array, dx: Array) -> None:
    for i in prange(x.size):
        dx[i] = dy[i] * gelu_at(x[i])[1]


@njit(**PARALLEL)
def _gelu_tanh(x: Array, y: Array) -> None:
    for i in prange(x.size):
        y[i] = gelu_tanh_at(x[i])[0]


@njit(**PARALLEL)
def _gelu_tanh_backward(dy: Array, x: Array, dx: Array) -> None:
    for i in prange(x.size):
        dx[i] = dy[i] * gelu_tanh_at(x[i])[1]


@njit(**PARALLEL)
def _swiglu(x: Array, y: Array) -> None:
    """y = silu(g) u,  x = [g | u].   x (N, 2F), y (N, F)"""
    N, F = y.shape
    for i in prange(N):
        gate, up, yi = x[i, :F], x[i, F:], y[i]
        for j in range(F):
            yi[j] = silu_at(gate[j])[0] * up[j]


@njit(**PARALLEL)
def _swiglu_backward(dy: Array, x: Array, dx: Array) -> None:
    """dg = dy u silu′(g),  du = dy silu(g)"""
    N, F = dy.shape
    for i in prange(N):
        dyi, gate, up, dgate, dup = dy[i], x[i, :F], x[i, F:], dx[i, :F], dx[i, F:]
        for j in range(F):
            opened, slope = silu_at(gate[j])
            dgate[j] = dyi[j] * up[j] * slope
            dup[j] = dyi[j] * opened


def _apply(kernel: Any, x: Array) -> Array:
    y = np.empty(x.shape, np.float32)
    run(kernel, x.size, flat(x), flat(y))
    return y


def _pull_back(kernel: Any, dy: Array, saved: Array) -> Array:
    dx = np.empty(dy.shape, np.float32)
    run(kernel, dy.size, flat(dy), flat(saved), flat(dx))
    return dx


def _relu_forward(xp: ArrayModule, x: Array) -> Any:
    if not takes(x):
        return NotImplemented
    y = _apply(_relu, x)
    return y, (y,)


def _relu_gradient(xp: ArrayModule, dy: Array, y: Array, *, needs: Needs) -> Any:
    return _pull_back(_relu_backward, dy, y)


def _relu_squared_forward(xp: ArrayModule, x: Array) -> Any:
    return (_apply(_relu_squared, x), (x,)) if takes(x) else NotImplemented


def _relu_squared_gradient(xp: ArrayModule, dy: Array, x: Array, *, needs: Needs) -> Any:
    return _pull_back(_relu_squared_backward, dy, x)


def _silu_forward(xp: ArrayModule, x: Array) -> Any:
    return (_apply(_silu, x), (x,)) if takes(x) else NotImplemented


def _silu_gradient(xp: ArrayModule, dy: Array, x: Array, *, needs: Needs) -> Any:
    return _pull_back(_silu_backward, dy, x)


def _swiglu_forward(xp: ArrayModule, x: Array) -> Any:
    if not takes(x) or x.ndim < 1 or x.shape[-1] % 2:
        return NotImplemented
    y = np.empty((*x.shape[:-1], x.shape[-1] // 2), np.float32)
    run(_swiglu, x.size, rows(x), rows(y))
    return y, (x,)


def _swiglu_gradient(xp: ArrayModule, dy: Array, x: Array, *, needs: Needs) -> Any:
    dx = np.empty(x.shape, np.float32)
    run(_swiglu_backward, x.size, rows(dy), rows(x), rows(dx))
    return dx


def _gelu_forward(xp: ArrayModule, x: Array, *, approximate: Gelu = "none") -> Any:
    if not takes(x) or approximate not in ("none", "tanh"):
        return NotImplemented
    return _apply(_gelu if approximate == "none" else _gelu_tanh, x), (x,)


def _gelu_gradient(xp: ArrayModule, dy: Array, x: Array, *, approximate: Gelu = "none", needs: Needs) -> Any:
    return _pull_back(_gelu_backward if approximate == "none" else _gelu_tanh_backward, dy, x)


relu.twin(np, _relu_forward, _relu_gradient)
relu_squared.twin(np, _relu_squared_forward, _relu_squared_gradient)
silu.twin(np, _silu_forward, _silu_gradient)
gelu.twin(np, _gelu_forward, _gelu_gradient)
swiglu.twin(np, _swiglu_forward, _swiglu_gradient)
