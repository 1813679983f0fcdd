"""Layers and a whole block in float64: backward is the slope of forward, for the input and for every parameter."""

from collections.abc import Callable

import numpy as np
import pytest

from nanograd import nn
from nanograd.models import Block, DecoderLMConfig
from nanograd.random import DropoutKeys
from nanograd.tensor import Tensor

B, T, C = 2, 5, 6
PADDING = np.array([[False, False, True, True, True], [True, True, True, True, False]])


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def block(**settings: object) -> nn.Module:
    config = DecoderLMConfig(d_model=C, n_heads=2, n_layers=1, d_hidden=8, init_std=0.4, **settings)
    return Block(config, rng=rng(), keys=DropoutKeys(0))


def with_padding(module: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: module(x, PADDING)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(C, 4, rng=rng(), std=0.5),
    "linear without bias": lambda: nn.Linear(C, 4, rng=rng(), std=0.5, bias=False),
    "layer norm": lambda: nn.LayerNorm(C),
    "rms norm": lambda: nn.RMSNorm(C),
    "dyt": lambda: nn.DyT(C),
    "derf": lambda: nn.Derf(C),
    "mlp gelu": lambda: nn.MLP(C, 8, rng=rng(), std=0.5),
    "mlp gelu-tanh": lambda: nn.MLP(C, 8, rng=rng(), std=0.5, activation="gelu-tanh"),
    "mlp silu": lambda: nn.MLP(C, 8, rng=rng(), std=0.5, activation="silu"),
    "mlp relu": lambda: nn.MLP(C, 8, rng=rng(), std=0.5, activation="relu"),
    "mlp relu2": lambda: nn.MLP(C, 8, rng=rng(), std=0.5, activation="relu2"),
    "mlp swiglu": lambda: nn.MLP(C, 8, rng=rng(), std=0.5, activation="swiglu"),
    "one head": lambda: nn.AttentionHead(C, 3, rng=rng(), std=0.5),
    "all heads": lambda: nn.MultiHeadAttention(C, 2, rng=rng(), std=0.5),
    "all heads qk-norm": lambda: nn.MultiHeadAttention(C, 1, rng=rng(), std=0.5, rotary_base=5.0, qk_norm=True),
    "all heads rotary": lambda: nn.MultiHeadAttention(C, 1, rng=rng(), std=0.5, rotary_base=5.0),
    "block": block,
    "block post": lambda: block(norm_placement="post"),
    "block rms relu": lambda: block(norm="rms_norm", activation="relu", qkv_bias=False),
    "block dyt": lambda: block(norm="dyt"),
    "block derf post": lambda: block(norm="derf", norm_placement="post", norm_alpha=0.8),
}
TAKES_A_MASK = {
    "one head",
    "all heads",
    "all heads qk-norm",
    "all heads rotary",
    "block",
    "block post",
    "block rms relu",
    "block dyt",
    "block derf post",
}


def assert_slope(module: nn.Module, run: Callable[[Tensor], Tensor]) -> None:
    """⟨dx, v⟩ + Σ ⟨dw, v⟩ = d/dh ⟨f(x + hv; w + hv), dy⟩ at h = 0, by central differences."""
    draw = np.random.default_rng(1)
    for _, parameter in module.named_parameters():  # gains of 1 and biases of 0 would hide mistakes
        parameter.data += 0.3 * draw.standard_normal(parameter.shape)
    x = Tensor(draw.standard_normal((B, T, C)), requires_grad=True)
    y = run(x)
    dy = draw.standard_normal(y.shape)
    y.backward(dy)
    tensors = [x, *(parameter for _, parameter in module.named_parameters())]
    for tensor in tensors:  # one at a time, so that no error hides in another's size
        direction, at, h = draw.standard_normal(tensor.shape), tensor.data, 1e-5
        tensor.data = at + h * direction
        above = float((run(x).data * dy).sum())
        tensor.data = at - h * direction
        below = float((run(x).data * dy).sum())
        tensor.data = at
        np.testing.assert_allclose((tensor.grad * direction).sum(), (above - below) / (2 * h), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", LAYERS)
def test_backward_is_the_slope_of_forward(name: str) -> None:
    module = LAYERS[name]().astype(np.float64)
    assert_slope(module, module)


@pytest.mark.parametrize("name", sorted(TAKES_A_MASK))
def test_backward_is_the_slope_of_forward_with_padding(name: str) -> None:
    module = LAYERS[name]().astype(np.float64)
    assert_slope(module, with_padding(module))


@pytest.mark.parametrize("name", LAYERS)
def test_input_is_not_written_and_float32_stays(name: str) -> None:
    data = np.random.default_rng(2).standard_normal((B, T, C), dtype=np.float32)
    data.flags.writeable = False
    y = LAYERS[name]()(Tensor(data, requires_grad=True))
    assert y.dtype == np.float32
    y.backward(np.ones_like(y.data))
