"""softmax and log_softmax on the emulated device, beside their formulas in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd import ops
from tests.kernels_cuda.emulated import assert_close, by_formula, by_twin, every_float, few, numbers, on_device

shapes = st.tuples(st.integers(1, 3), st.sampled_from([1, 5, 8, 33, 64, 257, 1000, 2056]))
operations = pytest.mark.parametrize("op", [ops.softmax, ops.log_softmax], ids=lambda op: op.name)


def compare(device, op, x, dy, **options):
    """Value and gradient by the twin and by the formula."""
    found = by_twin(device, op, [x], dy, **options)
    for ours, right in zip(found, by_formula(op, [x], dy, **options), strict=True):
        assert ours.dtype == x.dtype
        assert_close(ours, right, ulps=8, floor=max(1.0, np.abs(right).max()))


@operations
@every_float
@given(shape=shapes, temperature=st.sampled_from([1.0, 0.3]))
@few(4)
def test_rows_of_any_length(device, op, dtype, shape, temperature):
    compare(device, op, numbers(shape, dtype), numbers(shape, dtype, seed=1), temperature=temperature)


@operations
def test_a_row_longer_than_its_block(device, op):
    """8,200 float32 numbers are 2,050 packs for 1,024 threads; one number more, and they come one by one."""
    for C in (8200, 8201):
        compare(device, op, numbers((1, C), np.float32), numbers((1, C), np.float32, seed=1))


@operations
def test_rows_that_begin_anywhere(device, op):
    """A gradient that is a view into a larger array, off the 16-byte grid."""
    x, dy = numbers((4, 8), np.float32), numbers(33, np.float32, seed=1)
    _, saved, rule = op.fastest(device, [on_device(x)], {})
    dx = rule.backward(device, on_device(dy)[1:].reshape(4, 8), *saved, needs=(True,))
    _, right = by_formula(op, [x], dy[1:].reshape(4, 8))
    assert_close(dx, right, ulps=8)


@operations
def test_extremes(device, op):
    """Rows that are masked out wholly or in part, numbers whose exponential overflows, NaN."""
    x = numbers((5, 40), np.float32)
    x[0], x[1, 3:] = -np.inf, -np.inf
    x[2], x[3] = x[2] * 1e30, x[3] + 3e4
    x[4, 7] = np.nan
    with np.errstate(over="ignore", invalid="ignore"):
        right, _ = op.formula.forward(np, x)
    found, _, rule = op.fastest(device, [on_device(x)], {})
    assert rule is not op.formula
    np.testing.assert_allclose(found.held, right, rtol=1e-5, atol=1e-6)


@operations
def test_what_the_twin_leaves_to_the_formula(device, op):
    x = numbers((4, 6), np.float32)
    for array, options in ((x, {"axis": 0}), (x.astype(np.float64), {}), (x[:, ::2], {}), (x[:0], {})):
        there = on_device(x)[:, ::2] if array.shape == (4, 3) else on_device(array)
        assert op.fastest(device, [there], options)[2] is op.formula
