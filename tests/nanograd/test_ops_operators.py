"""x + 1, x[ids], x.sum(1): expressions of tensors read and mean what they do in NumPy."""

import numpy as np
import pytest

from nanograd import ops
from nanograd.tensor import Tensor
from nanograd.testing import gradient_check

X = np.random.default_rng(0).uniform(1, 3, (2, 3, 4)).astype(np.float32)
EXPRESSIONS = [
    lambda x: 1 + x - 2 * x / 3 - (1 - x) / (2 / x),
    lambda x: -(x**2) + 2**x + abs(-x),
    lambda x: np.ones(4, x.dtype) * x + np.float64(0.5) - np.int64(3) * x,
    lambda x: x @ x.swapaxes(1, 2) + np.ones((2, 3, 4), x.dtype) @ x.swapaxes(-1, -2),
    lambda x: x.reshape(6, 4) + x.reshape((6, 4)) + x.reshape(-1, 4),
    lambda x: x.transpose(0, 2, 1) + x.transpose((0, 2, 1)),
    lambda x: x.T + x.transpose() + x.transpose(None),
    lambda x: x.sum() + x.sum(1)[0][0] + x.mean(axis=(0, 1)) - x.var(0).max() + x.min(-1, keepdims=True),
    lambda x: x[0] + x[:, -1][1] + x[..., 2:3] + x[[1, 0]][1] + x[np.array([1, 0]), 1][0],
    lambda x: x.squeeze() + x.clip(1, 2),
    lambda x: sum(row.sum() for row in x),
    lambda x: x.astype(np.float64) * np.float64(2),
]


@pytest.mark.parametrize("number", range(len(EXPRESSIONS)))
def test_expressions_mean_what_they_mean_in_numpy(number):
    f = EXPRESSIONS[number]
    y, expected = f(Tensor(X, requires_grad=True)), f(X)
    assert isinstance(y, Tensor)
    assert y.dtype == (np.float64 if number == len(EXPRESSIONS) - 1 else np.float32)  # NumPy scalars widen nothing here
    np.testing.assert_allclose(y.data, expected, rtol=1e-6)
    gradient_check(f, [X], rtol=1e-6)


def test_comparisons_are_boolean_tensors_and_equality_is_identity():
    x = Tensor(X, requires_grad=True)
    for y, expected in ((x > 2, X > 2), (2 >= x, X <= 2), (x < X[0], X < X[0]), (X[0] <= x, X >= X[0])):  # noqa: SIM300
        assert y.dtype == bool
        assert not y.requires_grad
        np.testing.assert_array_equal(y.data, expected)
    assert x == x
    assert x != Tensor(X)
    assert x in {x: 1}
    assert ops.equal(x, X).data.all()


def test_an_index_may_be_a_tensor():
    ids = Tensor(np.array([1, 1, 0]))
    np.testing.assert_array_equal(Tensor(X)[ids].data, X[[1, 1, 0]])
    np.testing.assert_array_equal(Tensor(X)[:, ids].data, X[:, [1, 1, 0]])
    np.testing.assert_array_equal(Tensor(X)[Tensor(X) > 2].data, X[X > 2])


def test_a_cast_to_integers_passes_no_gradient():
    assert not Tensor(X, requires_grad=True).astype(np.int64).requires_grad
    assert Tensor(np.arange(3)).mean().dtype == np.float32


def test_a_tensor_of_one_number_has_no_rows():
    with pytest.raises(TypeError):
        list(Tensor(1.0))
