"""Mistakes that were found once, each held by a test: copies that train nothing, integers cut off, sums that stop."""

import copy
import pickle

import numpy as np
import pytest

from nanograd import ops
from nanograd.generate import next_token_probabilities
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.optim import AdamW, FlatParameters
from nanograd.tensor import Tensor


def leaf(a, dtype=np.float32):
    return Tensor(np.asarray(a, dtype), requires_grad=True)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copied_optimizer_trains_its_copied_model_or_refuses(duplicate):
    model = DecoderLM(DecoderLMConfig(vocab_size=7, context_length=4, n_layers=1, n_heads=1, d_model=4), seed=1)
    try:
        model, optimizer = duplicate((model, AdamW(FlatParameters(model))))
        before = model.tokens.weight.data.copy()
        optimizer.flat.gradients[...] = 1
        optimizer.step(0.1)
    except (RuntimeError, TypeError):
        return  # refused: fine
    assert not np.array_equal(before, model.tokens.weight.data)


@pytest.mark.parametrize(
    "op",
    [
        lambda x: ops.logsumexp(x, axis=-1),
        lambda x: ops.layer_norm(x, np.ones(2, np.float32), np.zeros(2, np.float32)),
        lambda x: ops.rms_norm(x, np.ones(2, np.float32)),
    ],
    ids=["logsumexp", "layer_norm", "rms_norm"],
)
def test_integers_are_not_cut_off(op):
    expected = op(np.array([[1.0, 2.0]], np.float32)).numpy()
    try:
        found = op(np.array([[1, 2]])).numpy()
    except TypeError:
        return  # refused: fine
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_comparison_with_a_number_is_not_silently_false():
    ids = Tensor(np.array([0, 1]))
    try:
        answer = ids == 0
    except TypeError:
        return
    assert answer is not False


@pytest.mark.parametrize("temperature", [float("nan"), float("inf")])
def test_a_temperature_that_is_no_number_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        next_token_probabilities(np.array([1.0, -np.inf], np.float32), temperature=temperature)


@pytest.mark.parametrize(
    "f",
    [
        lambda b: ops.linear(np.ones((8192, 2), np.float16), np.ones((2, 2), np.float16), b),
        lambda b: ops.layer_norm(np.ones((8192, 2), np.float16), np.ones(2, np.float16), b),
    ],
    ids=["linear", "layer_norm"],
)
def test_a_float16_bias_counts_beyond_2048(f):
    bias = leaf([0.0, 0.0], np.float16)
    f(bias).backward(np.ones((8192, 2), np.float16))
    assert bias.grad.tolist() == [8192.0, 8192.0]


@pytest.mark.filterwarnings("ignore")
def test_the_slope_of_tanh_gelu_in_float16_is_finite():
    x = leaf([300.0, -300.0], np.float16)
    ops.gelu(x, approximate="tanh").backward(np.ones(2, np.float16))
    np.testing.assert_allclose(x.grad, [1, 0], atol=1e-3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ops.softmax(np.ones((5, 0), np.float32)),
        lambda: ops.packed_attention(np.ones((2, 0, 12), np.float32), None, n_heads=2, causal=True),
        lambda: ops.attention(*(np.ones((2, n, 4), np.float32) for n in (3, 0, 0)), None, causal=False),
    ],
    ids=["softmax", "packed_attention", "attention"],
)
def test_nothing_to_attend_to(call):
    assert not call().numpy().any()


def test_split_takes_a_numpy_integer_and_names_a_missing_axis():
    assert len(ops.split(leaf(np.ones(4)), np.int64(2))) == 2
    with pytest.raises(IndexError, match=r"split: there is no axis 5 in \(4,\)"):
        ops.split(leaf(np.ones(4)), 2, axis=5)


def test_a_model_says_what_ids_it_wants():
    model = DecoderLM(DecoderLMConfig(vocab_size=7, context_length=4, n_layers=1, n_heads=1, d_model=4))
    with pytest.raises(ValueError, match="DecoderLM: ids must be integers of shape"):
        model([[1, 2, 3]])
