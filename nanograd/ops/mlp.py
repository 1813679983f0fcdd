"""The MLP of a transformer block in one operation, so that it need not keep what it can make again."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from nanograd.backend import Array, ArrayModule
from nanograd.ops.activation import gelu, relu, relu_squared, silu, swiglu
from nanograd.ops.matrix import linear
from nanograd.primitive import Needs, Primitive, Value, primitive

Activation: TypeAlias = Literal["gelu", "gelu-tanh", "relu", "relu2", "silu", "swiglu"]

ACTIVATIONS: Mapping[str, tuple[Primitive, dict[str, Any]]] = {
    "gelu": (gelu, {}),
    "gelu-tanh": (gelu, {"approximate": "tanh"}),
    "relu": (relu, {}),
    "relu2": (relu_squared, {}),
    "silu": (silu, {}),
    "swiglu": (swiglu, {}),
}


@primitive
def mlp(
    xp: ArrayModule,
    x: Array,
    up: Array,
    up_bias: Array,
    down: Array,
    down_bias: Array,
    residual: Array = None,
    *,
    activation: Activation,
) -> Value:
    """y = W₂ f(u) + b₂ + residual,  u = W₁ x + b₁.   x (…, C), up W₁ (F, C), down W₂ (C′, F) → (…, C′)

    For swiglu W₁ is (2F, C): gates first. Biases and residual may be None. Kept for backward are x and u: f(u), as long
    as u, costs less to make again than to keep.   Chen et al. 2016, arXiv:1604.06174
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is unknown; use one of {', '.join(ACTIVATIONS)}")
    bend, settings = ACTIVATIONS[activation]
    u, _ = linear.formula.forward(xp, x, up, up_bias)
    hidden, _ = bend.formula.forward(xp, u, **settings)
    y, _ = linear.formula.forward(xp, hidden, down, down_bias, residual)
    return y, (x, u, up, down)


@mlp.backward
def _(
    xp: ArrayModule, dy: Array, x: Array, u: Array, up: Array, down: Array, *, activation: Activation, needs: Needs
) -> Any:
    """The three gradients in turn: of W₂, of f, of W₁"""
    bend, settings = ACTIVATIONS[activation]
    hidden, saved = bend.formula.forward(xp, u, **settings)
    back: Any = linear.formula.backward
    dhidden, *of_down = back(xp, dy, hidden, down, needs=(True, *needs[3:]))
    du = bend.formula.backward(xp, dhidden, *saved, needs=(True,), **settings)  # type: ignore[misc]
    return *back(xp, du, x, up, needs=needs[:3]), *of_down
