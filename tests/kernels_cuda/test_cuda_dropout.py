"""Dropout on the emulated device: the very mask that the formula and the CPU's kernel draw."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd import ops
from nanograd.random import random_words
from tests.kernels_cuda.emulated import by_twin, every_float, few, numbers, on_device

KEY = (2**63 + 12345, 2**40 + 7)  # both halves of both words count


@every_float
@given(n=st.sampled_from([1, 3, 4, 5, 8, 1021, 2050]), p=st.sampled_from([0.1, 0.5, 0.9]), call=st.integers(1, 2**64))
@few(5)
def test_the_same_bits_as_the_formula(device, dtype, n, p, call):
    """What is kept, and what it becomes: one product in float32, rounded once."""
    x, dy, key = numbers(n, dtype), numbers(n, dtype, seed=1), (KEY[0], call)
    y, dx = by_twin(device, ops.dropout, [x], dy, p=p, key=key)
    keep = random_words(np, (n,), key) >= int(p * 2**32)
    for found, number in ((y, x), (dx, dy)):
        expected = number.astype(np.float32) * np.float32(1 / (1 - p)) * keep
        np.testing.assert_array_equal(found.held, expected.astype(dtype))


@pytest.mark.slow
@pytest.mark.examples
@every_float
@given(n=st.integers(1, 5000), p=st.floats(0.01, 0.99), call=st.integers(0, 2**64))
@few(40)
def test_the_same_bits_at_many_lengths(device, dtype, n, p, call):
    test_the_same_bits_as_the_formula.hypothesis.inner_test(device, dtype, n, p, call)


def test_the_same_mask_as_the_cpu(device):
    """The twin in Numba and the formula, on a matrix."""
    from nanograd.kernels.cpu import dropout  # noqa: F401  # registers the CPU's twin

    x = np.ones((37, 29), np.float32)
    y, _ = by_twin(device, ops.dropout, [x], x, p=0.3, key=KEY)
    on_cpu, _, rule = ops.dropout.fastest(np, [x], {"p": 0.3, "key": KEY})
    assert rule is not ops.dropout.formula
    np.testing.assert_array_equal(y.held, on_cpu)
    np.testing.assert_array_equal(y.held, ops.dropout.formula.forward(np, x, p=0.3, key=KEY)[0])


def test_a_call_that_lies_on_the_device(device):
    """So a graph that was recorded once draws another mask each time."""
    x, call = numbers(100, np.float32), on_device(np.array(KEY[1], np.uint64))
    found = by_twin(device, ops.dropout, [x], x, p=0.5, key=(KEY[0], call))
    for ours, right in zip(found, by_twin(device, ops.dropout, [x], x, p=0.5, key=KEY), strict=True):
        np.testing.assert_array_equal(ours.held, right.held)


@pytest.mark.parametrize(("p", "n"), [(0.0, 8), (1.0, 8), (0.5, 0)])
def test_what_the_twin_leaves_to_the_formula(device, p, n):
    there = on_device(numbers(n, np.float32))
    assert ops.dropout.fastest(device, [there], {"p": p, "key": KEY})[2] is ops.dropout.formula
