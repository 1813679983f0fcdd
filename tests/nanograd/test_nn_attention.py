"""Attention: one head against all heads, masks, rows that may look at nothing, dropout."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nanograd import nn, ops
from nanograd.random import DropoutKeys
from nanograd.tensor import Tensor

B, T, C, H = 3, 6, 8, 2
D = C // H
MASKS = st.one_of(st.none(), arrays(bool, (B, T)))


def attention(**settings: object) -> nn.MultiHeadAttention:
    layer = nn.MultiHeadAttention(C, H, rng=np.random.default_rng(0), std=0.5, **settings)  # type: ignore[arg-type]
    layer.qkv.bias.data[...] = np.random.default_rng(1).standard_normal(3 * C)
    return layer


def inputs(seed: int = 2) -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal((B, T, C), dtype=np.float32), requires_grad=True)


def single_heads(layer: nn.MultiHeadAttention) -> list[nn.AttentionHead]:
    """The same weights, cut into one AttentionHead for each head."""
    heads = [nn.AttentionHead(C, D, rng=np.random.default_rng(0)) for _ in range(H)]
    weights, biases = layer.qkv.weight.data.reshape(3, H, D, C), layer.qkv.bias.data.reshape(3, H, D)
    for h, head in enumerate(heads):
        for i, linear in enumerate((head.query, head.key, head.value)):
            linear.weight.data[...], linear.bias.data[...] = weights[i, h], biases[i, h]
    return heads


@given(mask=MASKS)
@settings(max_examples=30, deadline=None)
def test_one_head_at_a_time_equals_all_heads_at_once(mask: np.ndarray | None) -> None:
    layer, x, x_heads = attention(), inputs(), inputs()
    heads = single_heads(layer)
    y = layer(x, mask)
    y_heads = layer.out(ops.concatenate(*(head(x_heads, mask) for head in heads), axis=-1))
    np.testing.assert_allclose(y.data, y_heads.data, atol=2e-6)
    dy = np.random.default_rng(3).standard_normal(y.shape, dtype=np.float32)
    y.backward(dy)
    y_heads.backward(dy)
    np.testing.assert_allclose(x.grad, x_heads.grad, atol=2e-5)
    dw = np.stack([[part.weight.grad for part in (h.query, h.key, h.value)] for h in heads], axis=1)
    np.testing.assert_allclose(layer.qkv.weight.grad.reshape(3, H, D, C), dw, atol=5e-5)


def test_allowed_pairs_is_look_ahead_and_padding() -> None:
    x = np.zeros((2, 3, 1), np.float32)
    mask = np.array([[False, True, True], [True, True, False]])
    assert nn.allowed_pairs(x).tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert nn.allowed_pairs(x, mask).tolist() == [
        [[False, False, False], [False, True, False], [False, True, True]],
        [[True, False, False], [True, True, False], [True, True, False]],
    ]


@given(pads=st.integers(1, T))
@settings(max_examples=T, deadline=None)
def test_a_row_that_may_look_at_nothing_gives_zeros_and_zero_gradient(pads: int) -> None:
    layer, x = attention(), inputs()
    mask = np.ones((B, T), bool)
    mask[0, :pads] = False  # the first queries of sequence 0 see only padding
    layer.out.bias.data[...] = 0
    y = layer(x, mask)
    assert (y.data[0, :pads] == 0).all()
    dy = np.zeros_like(y.data)
    dy[0, :pads] = 1
    y.backward(dy)
    assert (x.grad == 0).all()
    assert (layer.qkv.weight.grad == 0).all()


@pytest.mark.parametrize("rotary_base", [None, 10.0])
@given(mask=MASKS)
@settings(max_examples=30, deadline=None)
def test_attention_weights_are_shares_of_the_allowed_past(rotary_base: float | None, mask: np.ndarray | None) -> None:
    layer, x = attention(rotary_base=rotary_base), inputs()
    weights = layer.attention_weights(x, mask)
    allowed = np.broadcast_to(nn.allowed_pairs(x.data, mask), (B, T, T))[:, None]
    assert weights.shape == (B, H, T, T)
    assert not weights[~np.broadcast_to(allowed, weights.shape)].any()
    np.testing.assert_allclose(weights.sum(-1), np.broadcast_to(allowed.any(-1), (B, H, T)), atol=1e-6)
    value = (x.data @ layer.qkv.weight.data[2 * C :].T + layer.qkv.bias.data[2 * C :]).reshape(B, T, H, D)
    mixed = np.einsum("bhts,bshd->bthd", weights, value).reshape(B, T, C)
    np.testing.assert_allclose(layer.out(Tensor(mixed)).data, layer(x, mask).data, atol=2e-6)


def test_attention_weights_build_no_graph() -> None:
    layer = attention()
    layer.attention_weights(inputs())
    assert layer(inputs()).requires_grad, "recording is on again"


def test_dropout_is_applied_in_training_only() -> None:
    layer, x = attention(dropout=0.5, keys=DropoutKeys(0)), inputs()
    assert (layer(x).data != layer(x).data).any()
    layer.eval()
    np.testing.assert_array_equal(layer(x).data, layer(x).data)
    np.testing.assert_array_equal(layer(x).data, attention()(x).data)


def test_dropout_has_the_right_mean() -> None:
    layer, x = attention(dropout=0.3, keys=DropoutKeys(0)), inputs()
    mean = np.mean([layer(x).data for _ in range(600)], axis=0)
    np.testing.assert_allclose(mean, attention()(x).data, atol=0.5)


def test_settings_that_cannot_be() -> None:
    for n_heads in (0, 3):
        with pytest.raises(ValueError, match=f"d_model 8 is not divisible by n_heads {n_heads}"):
            nn.MultiHeadAttention(8, n_heads, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="head of width 3 can't be cut into rotary pairs"):
        nn.MultiHeadAttention(9, 3, rng=np.random.default_rng(0), rotary_base=1e4)
    with pytest.raises(ValueError, match="dropout needs keys"):
        nn.MultiHeadAttention(8, 2, rng=np.random.default_rng(0), dropout=0.1)


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_every_number_of_heads_gives_the_same_shape(heads: int) -> None:
    layer = nn.MultiHeadAttention(C, heads, rng=np.random.default_rng(0))
    assert layer(inputs()).shape == (B, T, C)
