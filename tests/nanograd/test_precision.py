"""From float32 to 16 bits, to the nearest number or by chance; and what an engine of 16 bits adds up in."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nanograd import ops
from nanograd.backend import accumulator, formulas_only, is_floating
from nanograd.precision import float_type, round_into, rounding_key
from nanograd.tensor import Tensor
from nanograd.testing import value_and_gradients
from tests.cases import CASES

BF16, FP16 = float_type("bf16"), float_type("fp16")


def rounded(x: np.ndarray, key: tuple[int, int] | None = None, dtype: np.dtype = BF16) -> np.ndarray:
    narrow = np.empty(x.shape, dtype)
    round_into(narrow, x, key)
    return narrow


def test_which_types_are_floating():
    for dtype in (BF16, FP16, np.dtype(np.float32), np.dtype(np.float64)):
        assert is_floating(dtype)
    for dtype in (np.int64, np.bool_, np.uint16, [("a", "f4")], "V2"):
        assert not is_floating(np.dtype(dtype))
        assert accumulator(dtype) is None
    assert accumulator(BF16) == accumulator(FP16) == np.float32
    assert accumulator(np.float64) == np.float64


floats = st.floats(width=32, allow_nan=False)


@given(arrays.arrays(np.float32, st.integers(0, 40), elements=floats), st.integers(0, 2**32 - 1), st.integers(0, 99))
def test_by_chance_goes_to_one_of_the_two_neighbours(x, seed, step):
    """And to x itself where that has 16 bits. Beyond the largest number is infinity."""
    found = rounded(x, rounding_key(seed, step)).astype(np.float32)
    below = (x.view(np.uint32) & 0xFFFF0000).view(np.float32)  # towards zero
    above = ((x.view(np.uint32) & 0xFFFF0000) + np.uint32(0x10000)).view(np.float32)
    same = below == x
    np.testing.assert_array_equal(found[same], x[same])
    assert np.all((found == below) | (found == above) | same)


def test_by_chance_is_right_on_the_average():
    """A million times a number that lies 0.3 of the way to the next: the mean misses it by less than three of its
    standard deviations √(0.3 · 0.7 / n)."""
    n, share = 1 << 20, 0.3
    x = np.full(n, 1 + share * 2**-7, np.float32)
    found = (rounded(x, rounding_key(1, 2)).astype(np.float64) - 1) * 2**7
    assert set(np.unique(found)) == {0.0, 1.0}
    assert abs(found.mean() - float((x[0] - 1) * 2**7)) < 3 * math.sqrt(share * (1 - share) / n)


def test_seed_and_step_decide_and_each_weight_has_its_own_chance():
    x = np.full(1000, 1 + 2**-8, np.float32)
    first = rounded(x, rounding_key(5, 1))
    np.testing.assert_array_equal(first, rounded(x, rounding_key(5, 1)))
    for other in (rounding_key(5, 2), rounding_key(6, 1)):
        assert 300 < np.sum(first != rounded(x, other)) < 700


def test_without_a_key_and_in_fp16_to_the_nearest():
    x = np.linspace(-70_000, 70_000, 1001, dtype=np.float32)
    np.testing.assert_array_equal(rounded(x), x.astype(BF16))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(rounded(x, rounding_key(0, 0), FP16), x.astype(FP16))


@pytest.mark.usefixtures("twins")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_compiled_twins_leave_16_bits_to_the_formulas(precision):
    for case in CASES:
        found, expected = [], []
        for results, context in ((found, nullcontext()), (expected, formulas_only())):
            with context:
                y, gradients = value_and_gradients(lambda *x: case.call(x), case.draw(dtype=float_type(precision)))  # noqa: B023
                results += [y, *gradients]
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=repr(case))


@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_a_weight_used_a_thousand_times_gets_all_of_its_gradient(dtype):
    """256 + 1 is 256 in bfloat16 and 2048 + 1 is 2048 in float16: the sum over uses is float32."""
    w = Tensor(np.ones(3, dtype), requires_grad=True)
    total = ops.stack(*[w] * 3000).astype(np.float32).sum()
    total.backward()
    assert w.grad.dtype == np.float32
    np.testing.assert_array_equal(w.grad, 3000)


def test_a_gradient_buffer_of_float32_takes_what_16_bits_add():
    w = Tensor(np.ones((2, 2), BF16), requires_grad=True)
    buffer = w.grad = np.full((2, 2), 1e-4, np.float32)
    ops.linear(Tensor(np.ones((1, 2), BF16)), w).sum().backward()
    assert w.grad is buffer
    np.testing.assert_array_equal(buffer, np.float32(1) + np.float32(1e-4))
