"""Where formulas break: kinks, rows of −∞, nothing at all, numbers too large for their type, wrong calls."""

import math
import tracemalloc

import numpy as np
import pytest

from nanograd import ops
from nanograd.random import DropoutKeys
from nanograd.tensor import Tensor
from nanograd.testing import Case, value_and_gradients

INF = math.inf


def zeros(*shape: int) -> Tensor:
    return Tensor(np.zeros(shape, np.float32))


KINKS = [  # where left and right slopes differ, the gradient is a fixed choice: (f, x, dx)
    (ops.abs, 0.0, 0.0),
    (ops.relu, 0.0, 0.0),
    (lambda x: ops.maximum(x, 0.0), 0.0, 0.5),
    (lambda x: ops.minimum(x, 0.0), 0.0, 0.5),
    (lambda x: ops.clip(x, low=0.0, high=1.0), 1.0, 1.0),
    (lambda x: ops.clip(x, low=0.0, high=1.0), 0.0, 1.0),
    (lambda x: x**0, 0.0, 0.0),
    (lambda x: x**1, 0.0, 1.0),
    (lambda x: x**2, 0.0, 0.0),
    (lambda b: 0.0**b, 2.0, 0.0),
]


@pytest.mark.parametrize(("f", "x", "dx"), KINKS)
def test_the_slope_at_a_kink(f, x, dx):
    _, gradients = value_and_gradients(f, [np.array([x])], np.ones(1))
    np.testing.assert_array_equal(gradients, [[dx]])


def test_rows_of_minus_infinity():
    x = np.array([[-INF, -INF, -INF], [0.0, -INF, 0.0]])
    expected = {
        ops.softmax: ([0, 0, 0], [0.5, 0, 0.5]),
        ops.log_softmax: ([-INF] * 3, [-math.log(2), -INF, -math.log(2)]),
        ops.logsumexp: (-INF, math.log(2)),
    }
    for op, y in expected.items():
        found, (dx,) = value_and_gradients(lambda x, op=op: op(x, axis=-1), [x])
        np.testing.assert_allclose(found, y, atol=1e-15)
        assert np.isfinite(dx).all()
    assert ops.logsumexp(np.array([INF, 0.0]), axis=0).item() == INF


def test_nan_is_not_hidden():
    x = np.array([[np.nan, 1.0], [0.0, 1.0]])
    for op in (ops.softmax, ops.log_softmax, ops.relu, ops.logsumexp, ops.max):
        assert np.isnan(op(x).data).any()


def test_gelu_in_float32_is_as_exact_as_erf():
    x = np.linspace(-40, 40, 100_001)
    (y, (dx,)), (expected, (expected_dx,)) = (
        value_and_gradients(ops.gelu, [x.astype(dtype)], np.ones(x.shape, dtype)) for dtype in (np.float32, np.float64)
    )
    assert (np.abs(y - expected) <= 3e-7 * np.maximum(1, np.abs(x))).all()
    assert (np.abs(dx - expected_dx) <= 1e-6).all()


def test_sigmoid_is_exact_in_the_far_tail():
    np.testing.assert_allclose(ops.sigmoid(np.float32([-80])).data, np.exp(np.float32(-80)), rtol=1e-6)


NOTHING = [
    *(Case(op, (0, 3), axis=-1) for op in (ops.sum, ops.mean, ops.var, ops.max, ops.logsumexp, ops.softmax)),
    Case(ops.sum, (2, 0), axis=-1),
    Case(ops.add, (0, 3), (3,)),
    Case(ops.concatenate, (0, 3), (2, 3)),
    Case(ops.getitem, (3, 2), index=np.zeros((0,), int)),
    Case(ops.embedding, (3, 2), np.zeros((2, 0), int)),
    Case(ops.matmul, (0, 3), (3, 2)),
    Case(ops.matmul, (2, 0), (0, 3)),
    Case(ops.linear, (2, 0, 3), (4, 3), (4,)),
    Case(ops.layer_norm, (0, 3), (3,), (3,)),
    Case(ops.rms_norm, (0, 3), (3,)),
    Case(ops.dyt, (0, 3), (1,), (3,), (3,)),
    Case(ops.derf, (0, 3), (1,), (1,), (3,), (3,)),
    Case(ops.gelu, (0,)),
    Case(ops.dropout, (0, 2), p=0.5, key=(1, 1)),
    Case(ops.attention, (0, 2, 3, 4), (0, 2, 3, 4), (0, 2, 3, 4), None, causal=True),
    Case(ops.attention, (2, 0, 4), (2, 3, 4), (2, 3, 4), None, causal=True),
    Case(ops.packed_attention, (0, 3, 12), None, n_heads=2, causal=True),
    Case(ops.cross_entropy, (0, 5), np.zeros((0,), int)),
]


@pytest.mark.parametrize("case", NOTHING, ids=repr)
def test_empty_arrays(case):
    arrays = case.draw()
    y, gradients = value_and_gradients(lambda *inputs: case.call(inputs), arrays)
    assert np.isfinite(y).all()
    for x, dx in zip((a for a in arrays if a is not None and a.dtype.kind == "f"), gradients, strict=True):
        assert dx.shape == x.shape
        assert not dx.any() or case.op in (ops.add, ops.concatenate)


def test_ids_in_small_integers_do_not_wrap_around():
    """Token files hold uint16; 300 · 300 places do not fit into it."""
    ids = np.array([299, 5, 299], np.uint16)
    _, (dweight,) = value_and_gradients(ops.embedding, [np.zeros((300, 300)), ids], np.ones((3, 300)))
    np.testing.assert_array_equal(dweight.sum(axis=1), np.bincount(ids, minlength=300) * 300)


def test_one_id_may_be_a_plain_number():
    weight = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(ops.embedding(weight, 2).data, [4, 5])
    assert ops.cross_entropy(weight[0], 1).item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_cross_entropy_of_what_is_known():
    V = 7
    for logits in (zeros(4, V), zeros(4, V) + 1e4):  # uniform, wherever it lies
        assert ops.cross_entropy(logits, np.arange(4)).item() == pytest.approx(math.log(V), rel=1e-6)
        smooth = ops.cross_entropy(logits, np.arange(4), label_smoothing=0.3)
        assert smooth.item() == pytest.approx(math.log(V), rel=1e-6)
    certain = np.where(np.eye(4, V), 60.0, 0.0)
    assert ops.cross_entropy(certain, np.arange(4)).item() == pytest.approx(0, abs=1e-12)
    assert ops.cross_entropy(zeros(2, V), np.array([-100, 3]), z_loss=0.5).item() == pytest.approx(
        math.log(V) + 0.5 * math.log(V) ** 2, rel=1e-6
    )


def test_cross_entropy_makes_no_second_array_of_the_size_of_the_logits():
    logits, targets = np.zeros((256, 20_000), np.float32), np.arange(256)
    tracemalloc.start()
    try:
        _, saved = ops.cross_entropy.formula.forward(np, logits, targets)
        forward_peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        ops.cross_entropy.formula.backward(np, np.float32(1), *saved, needs=(True, False))
        backward_peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert forward_peak < 0.3 * logits.nbytes
    assert backward_peak < 1.1 * logits.nbytes  # the gradient itself


def test_dropout_keeps_the_share_and_the_mean():
    x, keys = np.ones((200, 500), np.float32), DropoutKeys(seed=5)
    key = keys.next()
    y = ops.dropout(x, p=0.3, key=key).data
    assert abs((y == 0).mean() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / y.size)
    np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)
    assert (y == ops.dropout(x, p=0.3, key=key).data).all()
    other = ops.dropout(x, p=0.3, key=keys.next()).data
    assert abs(((y == 0) & (other == 0)).mean() - 0.09) < 0.005
    with pytest.raises(ValueError, match="needs a key"):
        ops.dropout(x, p=0.3, key=None)


WRONG = [
    (lambda: ops.add(zeros(2, 3), zeros(4)), ValueError, r"add: .*float32 \(2, 3\), float32 \(4,\)"),
    (lambda: ops.matmul(zeros(2, 3), zeros(4, 5)), ValueError, r"matmul: .*\(2, 3\), float32 \(4, 5\)"),
    (lambda: ops.matmul(zeros(3), zeros(4)), ValueError, r"matmul: .*\(3,\), float32 \(4,\)"),
    (lambda: ops.linear(zeros(2, 3), zeros(3, 5)), ValueError, r"linear: .*\(out, in\).*\(2, 3\), float32 \(3, 5\)"),
    (lambda: ops.linear(zeros(2, 3), zeros(1, 3), zeros(5)), ValueError, r"linear: bias .*\(5,\)"),
    (lambda: ops.layer_norm(zeros(2, 3), zeros(1), zeros(1)), ValueError, r"layer_norm: .*\(2, 3\), float32 \(1,\)"),
    (lambda: ops.layer_norm(zeros(2, 3), zeros(3), zeros(2, 3)), ValueError, "layer_norm: "),
    (lambda: ops.rms_norm(zeros(2, 3), zeros(2, 3)), ValueError, r"rms_norm: .*\(2, 3\), float32 \(2, 3\)"),
    (lambda: ops.dyt(zeros(2, 3), zeros(3), zeros(3), zeros(3)), ValueError, r"dyt: alpha, .* shape \(1,\), given"),
    (lambda: ops.derf(zeros(2, 3), zeros(1), zeros(1), zeros(1), zeros(3)), ValueError, "derf: weight and bias must"),
    (lambda: ops.reshape(zeros(2, 3), shape=(4,)), ValueError, r"reshape: .*\(2, 3\)"),
    (lambda: ops.concatenate(zeros(2, 3), zeros(2, 4)), ValueError, r"concatenate: .*\(2, 3\), float32 \(2, 4\)"),
    (lambda: ops.pad(zeros(2, 3), widths=((1, 1),)), ValueError, "pad: 1 pairs of widths for 2 axes"),
    (lambda: ops.split(zeros(2, 3), 2, axis=1), ValueError, "split: 3 along axis 1 .* 2 equal parts"),
    (lambda: ops.split(zeros(2, 3), [1, 1], axis=1), ValueError, r"split: lengths \[1, 1\] don't add up to 3"),
    (lambda: zeros(2, 3)[2], IndexError, r"getitem: index 2 .*\(2, 3\)"),
    (lambda: ops.mean(zeros(0)), ValueError, r"mean: .*\(0,\)"),
    (lambda: ops.var(zeros(1), correction=1), ValueError, "var: the variance of 1 elements with correction=1"),
    (lambda: ops.softmax(zeros(2), temperature=0), ValueError, "softmax: temperature must be positive, not 0"),
    (lambda: ops.gelu(zeros(2), approximate="erf"), ValueError, "gelu: approximate is 'none' or 'tanh', not 'erf'"),
    (lambda: ops.dropout(zeros(2), p=1.5, key=(1, 1)), ValueError, "dropout: p is a probability, not 1.5"),
    (lambda: ops.dropout(zeros(2), p=math.nan, key=(1, 1)), ValueError, "dropout: p is a probability, not nan"),
    (lambda: ops.embedding(zeros(5, 2), np.array([1, 7])), IndexError, "embedding: token id 7 .*vocab_size=5"),
    (lambda: ops.embedding(zeros(5, 2), np.array([1, -1])), IndexError, "embedding: token id -1 .*vocab_size=5"),
    (lambda: ops.embedding(zeros(5, 2), np.array([1.0])), TypeError, "embedding: "),
    (lambda: ops.embedding(zeros(5), np.array([1])), ValueError, r"embedding: weight must be \(vocab_size, d_model\)"),
    (lambda: ops.cross_entropy(zeros(2, 5), np.array([1, 5])), ValueError, "cross_entropy: target 5 .*vocab_size=5"),
    (lambda: ops.cross_entropy(zeros(2, 5), np.array([1, -1])), ValueError, "cross_entropy: target -1 "),
    (lambda: ops.cross_entropy(zeros(2, 5), np.array([[1], [1]])), ValueError, r"cross_entropy: .*int64 \(2, 1\)"),
    (lambda: ops.cross_entropy(zeros(2, 5), np.array([1.0, 2.0], np.float32)), ValueError, "cross_entropy: .*integer"),
    (
        lambda: ops.attention(zeros(2, 3, 4), zeros(2, 3, 5), zeros(2, 3, 5), None, causal=False),
        ValueError,
        r"attention: query .*\(2, 3, 4\), float32 \(2, 3, 5\)",
    ),
    (
        lambda: ops.attention(zeros(3, 4), zeros(5, 4), zeros(6, 4), None, causal=False),
        ValueError,
        "attention: key and value",
    ),
    (
        lambda: ops.attention(zeros(5, 4), zeros(3, 4), zeros(3, 4), None, causal=True),
        ValueError,
        "attention: causal attention of 5 queries needs as many keys, not 3",
    ),
    (
        lambda: ops.attention(zeros(2, 3, 4), zeros(2, 3, 4), zeros(2, 3, 4), np.ones((4, 3), bool), causal=False),
        ValueError,
        r"attention: mask must be boolean .*\(2, 3, 3\).*bool \(4, 3\)",
    ),
    (
        lambda: ops.packed_attention(zeros(2, 3, 12), np.ones((3, 3)), n_heads=2, causal=False),
        (ValueError, TypeError),
        "packed_attention: ",
    ),
    (lambda: ops.packed_attention(zeros(2, 3, 10), None, n_heads=2, causal=False), ValueError, "n_heads=2.*10"),
    (lambda: ops.packed_attention(zeros(2, 3, 12), None, n_heads=0, causal=False), ValueError, "n_heads=0.*12"),
]


@pytest.mark.parametrize(("call", "kind", "says"), WRONG)
def test_a_wrong_call_names_the_operation_and_the_shapes(call, kind, says):
    with pytest.raises(kind, match=says):
        call()
