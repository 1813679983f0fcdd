"""Flat parameters: views stay views, matrices come first, clipping measures the whole."""

import math

import numpy as np
import pytest

from nanograd import nn, ops
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.optim import AdamW, FlatParameters, NonFiniteGradientError, clip_grad_norm, grad_norm

CONFIG = DecoderLMConfig(vocab_size=30, context_length=8, n_layers=2, n_heads=2, d_model=8)


def ready() -> tuple[DecoderLM, FlatParameters]:
    model = DecoderLM(CONFIG, seed=1)
    return model, FlatParameters(model)


def backward(model: DecoderLM) -> None:
    ids = np.arange(16).reshape(2, 8)
    ops.cross_entropy(model(ids), ids + 1).backward()


def test_packing_changes_no_number_and_no_result() -> None:
    plain, (packed, flat) = DecoderLM(CONFIG, seed=1), ready()
    for (name, ours), (_, theirs) in zip(packed.named_parameters(), plain.named_parameters(), strict=True):
        np.testing.assert_array_equal(ours.data, theirs.data, err_msg=name)
        assert np.shares_memory(ours.data, flat.parameters)
        assert np.shares_memory(ours.grad, flat.gradients)
    backward(packed)
    backward(plain)
    for (name, ours), (_, theirs) in zip(packed.named_parameters(), plain.named_parameters(), strict=True):
        np.testing.assert_array_equal(ours.grad, theirs.grad, err_msg=name)
    assert len(flat.parameters) == plain.n_parameters()


def test_matrices_decay_and_gains_and_biases_do_not() -> None:
    _, flat = ready()
    decayed = {name for name, where, _ in flat.places() if where.stop <= flat.decayed.stop}
    assert decayed == {name for name, p in flat.named.items() if p.ndim >= 2}
    assert "tokens.weight" in decayed
    assert {"norm.weight", "norm.bias", "blocks.0.mlp.up.bias"} <= set(flat.named) - decayed
    assert flat.not_decayed == slice(flat.decayed.stop, len(flat.parameters))


def test_gradients_that_exist_are_taken_along() -> None:
    model = DecoderLM(CONFIG, seed=1)
    backward(model)
    before = {name: p.grad.copy() for name, p in model.named_parameters()}
    flat = FlatParameters(model)
    for name, view in flat.split(flat.gradients).items():
        np.testing.assert_array_equal(view, before[name])


def test_zero_grad_and_loading_keep_the_views() -> None:
    model, flat = ready()
    backward(model)
    assert flat.gradients.any()
    flat.zero_grad()
    assert not flat.gradients.any()
    backward(model)
    model.zero_grad()
    assert not flat.gradients.any()
    model.load_state_dict({name: np.full_like(array, 3) for name, array in model.state_dict().items()})
    assert (flat.parameters == 3).all()
    flat.check_views()


def test_gradients_of_micro_batches_add_up_to_those_of_the_large_batch() -> None:
    """Row L7: to 10⁻⁶ of the largest gradient."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 30, (12, 9))
    gradients = []
    for micro in (12, 2):
        model, flat = ready()
        for batch in np.split(ids, 12 // micro):
            (model.loss(batch[:, :-1], batch[:, 1:]) * (micro / 12)).backward()
        gradients.append(flat.gradients)
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=0, atol=1e-6 * np.abs(gradients[0]).max())


def test_frozen_parameters_stay_out() -> None:
    model = DecoderLM(CONFIG)
    model.tokens.weight.requires_grad = False
    flat = FlatParameters(model)
    assert "tokens.weight" not in flat.named
    backward(model)
    assert model.tokens.weight.grad is None


@pytest.mark.parametrize("move", [lambda m: m.astype(np.float64), lambda m: setattr(m.tokens.weight, "grad", None)])
def test_parameters_that_left_the_buffer_are_noticed(move: object) -> None:
    model, flat = ready()
    optimizer = AdamW(flat)
    move(model)  # type: ignore[operator]
    with pytest.raises(RuntimeError, match=r"tokens\.weight left its flat buffer"):
        optimizer.step(1e-3)


def test_what_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        FlatParameters(nn.Module())
    model = DecoderLM(CONFIG)
    model.norm.astype(np.float64)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"one dtype and device, not .*float32.*float64"):
        FlatParameters(model)


@pytest.mark.parametrize("max_norm", [0.01, 1e6, math.inf])
def test_clipping_scales_to_the_bound_and_never_up(max_norm: float) -> None:
    model, flat = ready()
    backward(model)
    before = flat.gradients.copy()
    norm = clip_grad_norm(flat, max_norm)
    assert norm == pytest.approx(float(np.linalg.norm(before.astype(np.float64))), rel=1e-6)
    np.testing.assert_allclose(flat.gradients, before * min(1, max_norm / norm), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_no_number_is_refused_and_left_alone(bad: float) -> None:
    _, flat = ready()
    flat.gradients[...] = 1
    flat.gradients[7] = bad
    with pytest.raises(NonFiniteGradientError, match=r"norm is (nan|inf)") as caught:
        clip_grad_norm(flat, 1.0)
    assert not math.isfinite(caught.value.norm)
    assert flat.gradients[0] == 1


def test_the_norm_of_many_small_numbers_is_exact() -> None:
    """13 million gradients of 1e-3: one float32 dot product is off by 0.2 %."""
    big = nn.Embedding(13_000, 1000, rng=np.random.default_rng(0))
    flat = FlatParameters(big)
    flat.gradients[...] = 1e-3
    assert grad_norm(flat) == pytest.approx(1e-3 * math.sqrt(13e6), rel=1e-5)
