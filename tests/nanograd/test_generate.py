"""Sampling: each filter against its definition, drawing against its probabilities, generation against the model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nanograd.decoding import last_logits
from nanograd.generate import generate, next_token_probabilities
from nanograd.models import DecoderLM, DecoderLMConfig

logit_rows = arrays(np.float32, st.integers(1, 30), elements=st.floats(-50, 50, width=32))


def softmax(x):
    e = np.exp(x.astype(np.float64) - x.max())
    return e / e.sum()


@given(logit_rows, st.floats(0.05, 5))
def test_without_filters_it_is_the_softmax(logits, temperature):
    found = next_token_probabilities(logits, temperature=temperature)
    np.testing.assert_allclose(found, softmax(logits.astype(np.float64) / temperature), atol=1e-12)


@given(logit_rows)
def test_temperature_zero_is_exact_argmax(logits):
    found = next_token_probabilities(logits, temperature=0)
    assert found[logits.argmax()] == 1
    assert found.sum() == 1


@given(logit_rows, st.integers(1, 40))
def test_top_k_keeps_the_k_likeliest(logits, k):
    found = next_token_probabilities(logits, top_k=k)
    kept = found > 0
    assert kept.sum() <= min(k, len(logits))
    assert logits[kept].min() >= np.sort(logits)[-min(k, len(logits))]
    p = softmax(logits)
    np.testing.assert_allclose(found[kept], p[kept] / p[kept].sum(), rtol=1e-9)


@given(logit_rows, st.floats(0.01, 0.99))
def test_top_p_keeps_the_fewest_tokens_that_reach_p(logits, top_p):
    found = next_token_probabilities(logits, top_p=top_p)
    p, kept = softmax(logits), found > 0
    assert p[kept].sum() >= top_p - 1e-9
    assert p[kept].sum() - p[kept].min() < top_p + 1e-9  # without its least likely member the set falls short
    assert p[kept].min() >= (p[~kept].max() if (~kept).any() else 0) - 1e-12


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": np.nan}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        next_token_probabilities(np.zeros(3), **wrong)


def test_a_temperature_next_to_zero_takes_the_likeliest_without_a_warning():
    np.testing.assert_array_equal(next_token_probabilities(np.array([1.0, 3.0, -2.0]), temperature=1e-320), [0, 1, 0])


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="its training diverged, or its weights are damaged"):
        next_token_probabilities(np.array([0.0, wrong]))


@pytest.fixture(scope="module")
def model():
    config = DecoderLMConfig(
        vocab_size=11, context_length=6, n_layers=1, n_heads=2, d_model=8, dropout=0.5, init_std=1.0
    )
    return DecoderLM(config, seed=0)


def draw(model, seed=0, **settings):
    settings = {"max_new_tokens": 12, "temperature": 1.0, **settings}
    return list(generate(model, [1, 2], rng=np.random.default_rng(seed), **settings))


def test_the_same_seed_draws_the_same_ids_and_dropout_is_off(model):
    model.train()
    assert draw(model) == draw(model)
    assert draw(model) != draw(model, seed=1)
    assert model.training


def test_greedy_follows_the_largest_logit_and_reads_only_the_context(model):
    ids = [1, 2]
    model.eval()
    for chosen in draw(model, temperature=0.0):
        assert chosen == last_logits(model, ids[-6:]).argmax()
        ids.append(chosen)


def test_frequencies_follow_the_probabilities(model):
    """χ² with 10 degrees of freedom: 35 is exceeded by chance once in 10,000 runs."""
    model.eval()
    p = next_token_probabilities(last_logits(model, [1, 2]), temperature=0.7)
    rng = np.random.default_rng(0)
    drawn = [next(generate(model, [1, 2], max_new_tokens=1, rng=rng, temperature=0.7)) for _ in range(1000)]
    counts = np.bincount(drawn, minlength=11)
    assert ((counts - 1000 * p) ** 2 / (1000 * p)).sum() < 35


def test_it_stops_at_the_stop_token_and_never_draws_a_forbidden_one(model):
    ids = draw(model)
    stopped = draw(model, stop_id=ids[4])
    assert stopped == ids[: ids.index(ids[4])]
    assert max(draw(model, allowed=3, max_new_tokens=50)) < 3


def test_an_empty_prompt_is_refused(model):
    with pytest.raises(ValueError, match="the prompt holds no token"):
        next(generate(model, [], max_new_tokens=1, rng=np.random.default_rng(0)))
