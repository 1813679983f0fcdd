"""Optimizers on master weights: the model computes in 16 bits, what learns is float32."""

import numpy as np
import pytest

from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.optim import SGD, Adafactor, AdamW, Averaged, FlatParameters, FusedIntoBackward, Lion, Muon
from nanograd.precision import float_type, round_into, rounding_key

SHAPE = DecoderLMConfig(vocab_size=17, context_length=8, n_layers=2, n_heads=2, d_model=8)
IDS = np.random.default_rng(0).integers(0, 17, (3, 9))
OPTIMIZERS = {
    "adamw": lambda model, flat: AdamW(flat),
    "sgd": lambda model, flat: SGD(flat, nesterov=True),
    "lion": lambda model, flat: Lion(flat),
    "adafactor": lambda model, flat: Adafactor(flat),
    "muon": lambda model, flat: Muon(flat, hidden=model.hidden_matrices()),
    "averaged": lambda model, flat: Averaged(AdamW(flat), decay=0.9),
}
every_precision = pytest.mark.parametrize("precision", ["bf16", "fp16"])


def packed(precision, *, with_gradients=True, freeze=False, recompute_blocks=False):
    model = DecoderLM(SHAPE if not freeze else DecoderLMConfig(**{**_fields(), "tie_embeddings": False}), seed=1)
    model.recompute_blocks = recompute_blocks
    if freeze:
        model.freeze_embeddings()
    return model, FlatParameters(model, with_gradients=with_gradients, precision=precision, seed=3)


def _fields():
    return {name: getattr(SHAPE, name) for name in ("vocab_size", "context_length", "n_layers", "n_heads", "d_model")}


def rounded(flat, step):
    narrow = np.empty_like(flat.compute)
    round_into(narrow, flat.parameters, rounding_key(3, step))
    return narrow


@every_precision
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("fused", [False, True])
def test_every_optimizer_moves_the_master_and_rounds_it_anew(name, precision, fused):
    """With the same gradients the master weights are bit for bit those of a float32 model."""
    results = []
    for kind in ("float32", precision):
        model, flat = packed(kind, with_gradients=not fused)
        optimizer = OPTIMIZERS[name](model, flat)
        for step in range(3):
            g = np.random.default_rng(step).standard_normal(flat.parameters.size, np.float32)
            if fused:
                optimizer.begin()
                for key, gradient in flat.split(g).items():
                    optimizer.update_parameter(key, gradient, 0.01)
                optimizer.end()
            else:
                flat.gradients[...] = g
                optimizer.step(0.01, scale=0.5, zero_grad=True)
        results.append(flat)
    plain, mixed = results
    np.testing.assert_array_equal(mixed.parameters, plain.parameters)
    np.testing.assert_array_equal(mixed.compute, rounded(mixed, step=3))
    if not fused:
        assert not mixed.gradients.any()


@every_precision
@pytest.mark.parametrize("recompute_blocks", [False, True])
def test_a_model_computes_in_16_bits_and_its_gradients_are_float32(precision, recompute_blocks):
    model, flat = packed(precision, recompute_blocks=recompute_blocks)
    assert {p.dtype for _, p in model.named_parameters()} == {float_type(precision)}
    assert model.hidden(IDS[:, :-1]).dtype == float_type(precision)
    loss = model.loss(IDS[:, :-1], IDS[:, 1:])
    loss.backward()
    assert loss.dtype == flat.gradients.dtype == np.float32
    exact, wanted = packed("float32")
    expected = exact.loss(IDS[:, :-1], IDS[:, 1:])
    expected.backward()
    assert abs(loss.item() - expected.item()) < 0.01
    off = np.linalg.norm(flat.gradients - wanted.gradients) / np.linalg.norm(wanted.gradients)
    assert 0 < off < (0.05 if precision == "bf16" else 0.01)


@every_precision
def test_a_weight_learns_from_steps_that_16_bits_cannot_hold(precision):
    """1000 steps of 10⁻⁵: in 16 bits 1 + 10⁻⁵ is 1, for ever."""
    _, flat = packed(precision)
    flat.parameters[...] = 1
    optimizer = SGD(flat, momentum=0.0)
    for _ in range(1000):
        flat.gradients[...] = 1
        optimizer.step(1e-5)
    np.testing.assert_allclose(flat.parameters, 0.99, rtol=1e-4)
    np.testing.assert_allclose(flat.compute.astype(np.float32).mean(), 0.99, rtol=5e-4)


@every_precision
def test_what_is_saved_is_float32_and_what_is_loaded_is_rounded_as_before(precision):
    """What is frozen too: in 16 bits it would lose what it was."""
    model, flat = packed(precision, freeze=True)
    before = flat.compute.copy(), model.tokens.weight.data.copy()
    with flat.in_float32():
        saved = {name: array.copy() for name, array in model.state_dict().items()}
    assert {array.dtype for array in saved.values()} == {np.dtype(np.float32)}
    original = DecoderLM(model.config, seed=1).state_dict()
    assert all(np.array_equal(saved[name], original[name]) for name in original)
    flat.parameters[...] = 0
    flat.refresh()
    with flat.in_float32():
        model.load_state_dict(saved)
    flat.refresh(0)
    np.testing.assert_array_equal(flat.compute, before[0])
    np.testing.assert_array_equal(model.tokens.weight.data, before[1])
    assert model.tokens.weight.dtype == float_type(precision)
    flat.check_views()


@every_precision
def test_the_mean_of_the_weights_is_that_of_the_master(precision):
    _, flat = packed(precision)
    optimizer = Averaged(SGD(flat, momentum=0.0), decay=0.5)
    for _ in range(2):
        flat.gradients[...] = 1
        optimizer.step(1e-3)
    master, compute = flat.parameters.copy(), flat.compute.copy()
    with optimizer.averaged():
        np.testing.assert_array_equal(flat.parameters, optimizer.average)
        np.testing.assert_array_equal(flat.compute, optimizer.average.astype(float_type(precision)))
    np.testing.assert_array_equal(flat.parameters, master)
    np.testing.assert_array_equal(flat.compute, compute)


@every_precision
@pytest.mark.parametrize("recompute_blocks", [False, True])
def test_the_optimizer_inside_backward_takes_the_same_steps(precision, recompute_blocks):
    weights = []
    for fused in (False, True):
        model, flat = packed(precision, with_gradients=not fused, recompute_blocks=recompute_blocks)
        optimizer = AdamW(flat)
        inside = FusedIntoBackward(optimizer) if fused else None
        for _ in range(2):
            if inside is None:
                model.loss(IDS[:, :-1], IDS[:, 1:]).backward()
                optimizer.step(0.01, zero_grad=True)
            else:
                with inside.step(0.01):
                    model.loss(IDS[:, :-1], IDS[:, 1:]).backward()
        weights.append((flat.parameters, flat.compute))
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_model_of_16_bits_is_refused():
    model = DecoderLM(SHAPE).astype(np.float16)
    with pytest.raises(ValueError, match="a float16 module can't learn: pack a float32 one, with precision="):
        FlatParameters(model)
