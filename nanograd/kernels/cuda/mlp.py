"""Floor 3. The MLP: two products by cuBLASLt, and between them the bend. Twin of nanograd/ops/mlp.py.

cuBLASLt's epilogues know GELU by its tanh formula, and its slope: then the bend takes no pass over memory of its own,

    [f(u), u] = up x + b₁        GELU_AUX_BIAS writes both
    du = (dy W₂) ⊙ f′(u)         DGELU

and f(u) is kept for the gradient of W₂. Every other bend is a kernel (or a formula) between two products, and is made
again in backward.
"""

from typing import Any

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cuda import cublaslt
from nanograd.kernels.cuda.launch import Twin
from nanograd.kernels.cuda.matrix import Into, affine, affine_gradients, product_into, rows, takes
from nanograd.ops.mlp import ACTIVATIONS, Activation, mlp
from nanograd.primitive import Needs
from nanograd.tensor import PASSED_ON

# Where the epilogue was measured to be faster than a kernel of its own: llm.c's pull request 591 (H100), and an H200
# (sgl-project/sglang, issue 34350). On the RTX 4090 (8.9) and on consumer Blackwell (12.0) it is slower.
FUSES_GELU = {"80": True, "90": True, "100": True}


def _forward(
    xp: ArrayModule,
    x: Array,
    up: Array,
    up_bias: Array,
    down: Array,
    down_bias: Array,
    residual: Array = None,
    *,
    activation: Activation,
) -> Any:
    if not _fit(x, up, up_bias, down, down_bias, residual, activation):
        return NotImplemented
    u = hidden = None
    if _fuses(activation, x):
        u, hidden = _bent_product(xp, rows(xp, x), rows(xp, up).T, up_bias)
    if hidden is None:
        u = affine(xp, rows(xp, x), up, up_bias, None)
        bend, settings = ACTIVATIONS[activation]
        bent, _, _ = bend.fastest(xp, [u], settings)
    y = affine(xp, hidden if hidden is not None else bent, down, down_bias, _rows_or_none(xp, residual))
    return y.reshape(*x.shape[:-1], len(down)), (x, u, hidden, up, down)


def _fit(x: Array, up: Array, up_bias: Array, down: Array, down_bias: Array, residual: Array, activation: str) -> bool:
    """Are these arrays of one type and of shapes that belong together? If not, the formula says what is wrong."""
    if not takes(x, up, up_bias, down, down_bias, residual):
        return False
    if activation not in ACTIVATIONS or not x.ndim or up.ndim != 2 or down.ndim != 2 or x.shape[-1] != up.shape[1]:
        return False
    halves = 2 if activation == "swiglu" else 1
    fits = len(up) == halves * down.shape[1] and (up_bias is None or up_bias.shape == up.shape[:1])
    fits = fits and (down_bias is None or down_bias.shape == down.shape[:1])
    return fits and (residual is None or residual.shape == (*x.shape[:-1], len(down)))


def _fuses(activation: str, x: Array) -> bool:
    return activation == "gelu-tanh" and FUSES_GELU.get(x.device.compute_capability, False)


def _bent_product(xp: ArrayModule, x: Array, up: Array, bias: Array | None) -> tuple[Array, Array]:
    """u = x W₁ᵀ + b₁ and f(u) in one go; None and None if cuBLASLt has no kernel that does so"""
    shape = len(x), up.shape[1]
    u, hidden = xp.empty(shape, x.dtype), xp.empty(shape, x.dtype)
    epilogue: Any = "gelu_aux" if bias is None else "gelu_aux_bias"
    return (u, hidden) if cublaslt.attempt(xp, x, up, hidden, epilogue=epilogue, bias=bias, aux=u) else (None, None)


def _rows_or_none(xp: ArrayModule, x: Array | None) -> Array | None:
    return None if x is None else rows(xp, x)


def _backward(
    xp: ArrayModule,
    dy: Array,
    x: Array,
    u: Array,
    hidden: Array | None,
    up: Array,
    down: Array,
    *,
    activation: Activation,
    needs: Needs,
    into: Into,
) -> Any:
    """du = (dy W₂) ⊙ f′(u), and from it and dy the gradients of W₁, x, W₂ and of both biases"""
    dy, into = rows(xp, dy), (*into, None)
    du, hidden = _slope(xp, dy, u, hidden, down, activation)
    ddown, ddown_bias = affine_gradients(xp, dy, hidden, into[3], into[4], needs[3], needs[4])
    dx = product_into(xp, into[0], x.shape, x.dtype, du, rows(xp, up)) if needs[0] else None
    dup, dup_bias = affine_gradients(xp, du, x, into[1], into[2], needs[1], needs[2])
    return (dx, dup, dup_bias, ddown, ddown_bias, PASSED_ON)[: len(needs)]


def _slope(
    xp: ArrayModule, dy: Array, u: Array, hidden: Array | None, down: Array, activation: Activation
) -> tuple[Array, Array]:
    """du (N, F or 2F), and f(u) (N, F), which is made again if it was not kept"""
    dhidden = xp.empty((len(dy), down.shape[1]), dy.dtype)
    if hidden is not None and cublaslt.attempt(xp, dy, rows(xp, down), dhidden, epilogue="dgelu", aux=u):
        return dhidden, hidden
    cublaslt.gemm(xp, dy, rows(xp, down), dhidden)
    bend, settings = ACTIVATIONS[activation]
    bent, saved, rule = bend.fastest(xp, [u], settings)
    into = {"into": (None,)} if rule.accumulates else {}
    du: Any = rule.backward(xp, dhidden, *saved, needs=(True,), **into, **settings)  # type: ignore[misc]
    du = du[0] if isinstance(du, tuple) else du
    return du.astype(u.dtype, copy=False), bent


TWINS = (Twin(mlp, _forward, _backward, accumulates=True),)
