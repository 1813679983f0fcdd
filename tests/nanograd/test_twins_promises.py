"""What some twins promise beyond agreeing with a formula: equal bits, gradients added in place, the same refusals."""

import importlib
import pkgutil

import numpy as np
import pytest

import nanograd.kernels.cpu
from nanograd import backend, ops
from nanograd.random import random_words
from nanograd.tensor import Tensor
from nanograd.testing import Case, random_like, value_and_gradients
from tests.cases import KEY

pytestmark = pytest.mark.usefixtures("twins")

for module in pkgutil.iter_modules(nanograd.kernels.cpu.__path__, "nanograd.kernels.cpu."):
    importlib.import_module(module.name)

every = pytest.mark.parametrize
SQUARES = np.ones((2, 2, 2), np.float32)


@every("n", [1, 3, 4, 5, 4095, 4096, 4099, 12289])
def test_dropout_draws_the_same_mask(n):
    key = (2**63 + 5, 2**40 + 3)  # all four words of it count
    x = np.ones(n, np.float32)
    y = ops.dropout(x, p=0.4, key=key).data
    kept = random_words(np, x.shape, key) >= int(0.4 * 2**32)
    np.testing.assert_array_equal(y > 0, kept)


def test_embedding_adds_to_the_gradient_that_is_there():
    ids, rng = np.array([[3, 1, 3], [0, 3, 1]], np.uint16), np.random.default_rng(0)
    weight = Tensor(rng.normal(size=(5, 7)).astype(np.float32), requires_grad=True)
    weight.grad = before = np.ones_like(weight.data)
    dy = rng.normal(size=(2, 3, 7)).astype(np.float32)
    ops.embedding(weight, ids).backward(dy)
    assert weight.grad is before
    expected = np.ones((5, 7))
    np.add.at(expected, ids, dy)
    np.testing.assert_allclose(before, expected, rtol=1e-6)


@every(
    "case",
    [
        Case(ops.layer_norm, (3, 5, 33), (33,), (33,)),
        Case(ops.rms_norm, (3, 5, 33), (33,)),
        Case(ops.linear, (3, 5, 33), (7, 33), (7,), (3, 5, 7)),
        Case(ops.matmul, (3, 5, 33), (33, 7)),
        Case(ops.mlp, (3, 5, 33), (20, 33), (20,), (7, 20), (7,), (3, 5, 7), activation="gelu"),
        Case(ops.mlp, (3, 5, 33), (20, 33), (20,), (7, 10), (7,), activation="swiglu"),
    ],
    ids=repr,
)
def test_a_gradient_that_is_there_is_added_to(case):
    """That of every input, in the array where it is."""
    arrays = case.draw(dtype=np.float32)
    y, gradients = value_and_gradients(lambda *tensors: case.call(tensors), arrays)
    inputs, before = [Tensor(a, requires_grad=True) for a in arrays], [random_like(a, seed=1) for a in arrays]
    for x, start in zip(inputs, before, strict=True):
        x.grad = start.copy()
    there = [x.grad for x in inputs]
    case.call(inputs).backward(random_like(y))
    for x, array, start, gradient in zip(inputs, there, before, gradients, strict=True):
        assert x.grad is array
        np.testing.assert_allclose(x.grad, start + gradient, rtol=1e-5, atol=1e-5)


@every(
    ("wrong", "error"),
    [
        (lambda: ops.layer_norm(np.ones((2, 3), np.float32), np.ones(2, np.float32), None), ValueError),
        (lambda: ops.rms_norm(np.ones((2, 3), np.float32), np.ones(1, np.float32)), ValueError),
        (lambda: ops.gelu(np.ones(3, np.float32), approximate="fast"), ValueError),
        (lambda: ops.linear(*(np.ones((2, 2), np.float32),) * 2, None, np.ones((1, 2), np.float32)), ValueError),
        (lambda: ops.mlp(*SQUARES, None, np.ones((2, 3), np.float32), None, activation="relu"), ValueError),
        (lambda: ops.mlp(*SQUARES, None, np.ones((2, 2), np.float32), None, activation="swiglu"), ValueError),
        (lambda: ops.mlp(*SQUARES, None, np.ones((2, 2), np.float32), None, activation="swish"), ValueError),
        (lambda: ops.swiglu(np.ones((2, 3), np.float32)), ValueError),
        (lambda: ops.rotary(np.ones((2, 3), np.float32), np.arange(2)), ValueError),
        (lambda: ops.rotary(np.ones((2, 4), np.float32), np.arange(3)), ValueError),
        (lambda: ops.rotary(np.ones((2, 4), np.float32), np.ones(2, np.float32)), TypeError),
        (lambda: ops.rotary(np.ones((2, 4), np.float32), np.arange(2), layout="half"), ValueError),
        (lambda: ops.packed_head_norm(np.ones((2, 4, 12), np.float32), n_heads=3), ValueError),
        (lambda: ops.packed_rotary(np.ones((2, 4, 12), np.float32), np.arange(4), n_heads=3), ValueError),
        (lambda: ops.packed_rotary(np.ones((4, 12), np.float32), np.arange(4), n_heads=2), ValueError),
        (lambda: ops.softmax(np.ones(3, np.float32), temperature=0.0), ValueError),
        (lambda: ops.dropout(np.ones(3, np.float32), p=1.5, key=KEY), ValueError),
        (lambda: ops.dropout(np.ones(3, np.float32), p=0.5, key=None), ValueError),
        (lambda: ops.cross_entropy(np.ones((2, 3), np.float32), np.array([0, 3])), ValueError),
        (lambda: ops.cross_entropy(np.ones((2, 3), np.float32), np.array([0, -1])), ValueError),
        (lambda: ops.embedding(np.ones((2, 3), np.float32), np.array([2])), IndexError),
    ],
)
def test_mistakes_are_refused_as_the_formula_refuses_them(wrong, error):
    def message():
        with pytest.raises(error) as caught:
            wrong()
        return str(caught.value)

    with backend.formulas_only():
        expected = message()
    assert message() == expected
