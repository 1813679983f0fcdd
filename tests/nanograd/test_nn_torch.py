"""Layers against PyTorch in float32, forward and backward."""

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is the yardstick of these tests: pip install 'nanograd[peers]'")
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nanograd import nn, ops
from nanograd.tensor import Tensor
from tests.torch_twin import TwinAttention, TwinDynamic, TwinMLP, gradients

B, T, C = 3, 7, 12


def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def assert_twins(ours: nn.Module, twin: torch.nn.Module, x: np.ndarray, *masks: np.ndarray) -> None:
    """The same output to 1e-6 and the same gradients to 1e-5, relative to their size."""
    for i, (_, parameter) in enumerate(ours.named_parameters()):
        parameter.data += np.random.default_rng(i).normal(0, 0.2, parameter.shape).astype(np.float32)
    twin.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in ours.state_dict().items()})
    x_ours, x_twin = Tensor(x, requires_grad=True), torch.from_numpy(x.copy()).requires_grad_()
    y_ours, y_twin = ours(x_ours, *masks), twin(x_twin, *map(torch.from_numpy, masks))
    assert_close(y_ours.data, y_twin.detach().numpy(), 2e-6)
    dy = np.random.default_rng(9).standard_normal(y_ours.shape, dtype=np.float32)
    y_ours.backward(dy)
    y_twin.backward(torch.from_numpy(dy))
    assert_close(x_ours.grad, x_twin.grad.numpy(), 1e-5)
    expected = gradients(twin)
    for name, parameter in ours.named_parameters():
        assert_close(parameter.grad, expected[name], 1e-5)


def assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1.0, np.abs(theirs).max()))


def inputs() -> np.ndarray:
    return rng().standard_normal((B, T, C), dtype=np.float32)


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias: bool) -> None:
    assert_twins(nn.Linear(C, 5, rng=rng(), bias=bias, std=0.5), torch.nn.Linear(C, 5, bias=bias), inputs())


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 0.1])
def test_layer_norm(eps: float) -> None:
    assert_twins(nn.LayerNorm(C, eps=eps), torch.nn.LayerNorm(C, eps=eps), 3 * inputs() + 1)


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 0.1])
def test_rms_norm(eps: float) -> None:
    assert_twins(nn.RMSNorm(C, eps=eps), torch.nn.RMSNorm(C, eps=eps), 3 * inputs() + 1)


@pytest.mark.parametrize("layer", [nn.DyT, nn.Derf])
def test_what_replaces_a_norm(layer: type[nn.DyT] | type[nn.Derf]) -> None:
    assert_twins(layer(C, alpha=0.7), TwinDynamic(C, shifted=layer is nn.Derf), 3 * inputs() + 1)


@pytest.mark.parametrize("activation", nn.ACTIVATIONS)
def test_mlp(activation: nn.Activation) -> None:
    ours = nn.MLP(C, 20, rng=rng(), activation=activation, std=0.5)
    assert_twins(ours, TwinMLP(C, 20, activation), inputs())


@given(mask=st.one_of(st.just(()), st.tuples(arrays(bool, (B, T)))))
@settings(max_examples=30, deadline=None)
def test_multi_head_attention_with_random_padding(mask: tuple[np.ndarray, ...]) -> None:
    """Rows without any allowed key included."""
    assert_twins(nn.MultiHeadAttention(C, 3, rng=rng(), std=0.5), TwinAttention(C, 3), inputs(), *mask)


@given(mask=st.one_of(st.just(()), st.tuples(arrays(bool, (B, T)))))
@settings(max_examples=15, deadline=None)
def test_rotary_attention_with_random_padding(mask: tuple[np.ndarray, ...]) -> None:
    ours = nn.MultiHeadAttention(C, 3, rng=rng(), std=0.5, rotary_base=30.0)
    assert_twins(ours, TwinAttention(C, 3, rotary_base=30.0), inputs(), *mask)


def test_embedding() -> None:
    ours, twin = nn.Embedding(9, C, rng=rng()), torch.nn.Embedding(9, C)
    twin.weight.data = torch.from_numpy(ours.weight.data.copy())
    ids = rng().integers(0, 9, (B, T))  # more draws than rows: gradients of one row add up
    y = ours(ids)
    loss = ops.sum(y * y * y)
    expected = (twin(torch.from_numpy(ids)) ** 3).sum()
    assert_close(y.data, twin(torch.from_numpy(ids)).detach().numpy(), 0)
    loss.backward()
    expected.backward()
    assert_close(ours.weight.grad, twin.weight.grad.numpy(), 1e-6)


@pytest.mark.parametrize("make", [lambda: nn.LayerNorm(C), lambda: nn.RMSNorm(C)])
def test_norms_of_constant_rows_are_finite(make: Callable[[], nn.Module]) -> None:
    x = Tensor(np.zeros((2, C), np.float32), requires_grad=True)
    y = make()(x)
    y.backward(np.ones_like(y.data))
    assert np.isfinite(y.data).all()
    assert np.isfinite(x.grad).all()
