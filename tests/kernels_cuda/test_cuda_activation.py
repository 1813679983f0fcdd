"""relu, relu², silu, gelu and swiglu on the emulated device, beside their formulas in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd import ops
from tests.kernels_cuda.emulated import assert_close, by_formula, by_twin, every_float, few, numbers, on_device, wide

bends = pytest.mark.parametrize(
    ("op", "options"),
    [
        *((op, {}) for op in (ops.relu, ops.relu_squared, ops.silu, ops.gelu)),
        (ops.gelu, {"approximate": "tanh"}),
        (ops.swiglu, {}),
    ],
    ids=("relu", "relu_squared", "silu", "gelu", "gelu_tanh", "swiglu"),
)
halves = st.tuples(st.integers(1, 3), st.sampled_from([1, 4, 7, 8, 40, 263]))  # rows, half of their length


def compare(device, op, x, dy, **options):
    found, right = by_twin(device, op, [x], dy, **options), by_formula(op, [x], dy, **options)
    for ours, truth in zip(found, right, strict=True):
        assert ours.dtype == x.dtype
        assert_close(ours, truth, ulps=8)


@bends
@every_float
@given(shape=halves)
@few(3)
def test_any_length(device, op, options, dtype, shape):
    N, F = shape
    x = numbers((N, 2 * F), dtype) * dtype.type(2)
    compare(device, op, x, numbers((N, F if op is ops.swiglu else 2 * F), dtype, seed=1), **options)


@pytest.mark.slow
@pytest.mark.examples
@bends
@every_float
@given(shape=st.tuples(st.integers(1, 5), st.integers(1, 1200)))
@few(40)
def test_many_lengths(device, op, options, dtype, shape):
    test_any_length.hypothesis.inner_test(device, op, options, dtype, shape)


@bends
def test_more_than_a_block(device, op, options):
    """2,600 float32 numbers are 650 packs for blocks of 256 threads; a row of swiglu is longer than one block."""
    x = numbers((1, 2600), np.float32)
    compare(device, op, x, numbers((1, 1300 if op is ops.swiglu else 2600), np.float32, seed=1), **options)


@bends
def test_extremes(device, op, options):
    """Infinities, NaN, numbers whose exponential or square overflows."""
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 30, -30, 100, -100, 1e20, -1e20] * 2, np.float32)
    with np.errstate(all="ignore"):
        right, _ = op.formula.forward(np, x, **options)
    found, _, rule = op.fastest(device, [on_device(x)], options)
    assert rule is not op.formula
    np.testing.assert_allclose(found.held, right, rtol=1e-5, atol=1e-6)


def test_the_slope_of_gelu_far_out(device):
    """1 to the right and 0 to the left, where x² and x³ have no float16 and no float32."""
    for dtype, far in ((np.float32, 1e30), (np.float16, 6e4)):
        x = np.array([far, -far] * 4, dtype)
        for approximate in ("none", "tanh"):
            _, dx = by_twin(device, ops.gelu, [x], np.ones(8, dtype), approximate=approximate)
            np.testing.assert_allclose(wide(dx.held), [1, 0] * 4, atol=1e-30)


@bends
def test_a_gradient_off_the_grid_of_16_bytes(device, op, options):
    x = numbers((2, 16), np.float32)
    dy = numbers(33, np.float32, seed=1)[: 17 if op is ops.swiglu else 33]
    _, saved, rule = op.fastest(device, [on_device(x)], options)
    shape = (2, -1)
    dx = rule.backward(device, on_device(dy)[1:].reshape(shape), *saved, needs=(True,), **options)
    assert_close(dx, by_formula(op, [x], dy[1:].reshape(shape), **options)[1], ulps=8)


@bends
def test_what_the_twin_leaves_to_the_formula(device, op, options):
    x = numbers((4, 8), np.float32)
    for there in (on_device(wide(x)), on_device(x)[:, ::2], on_device(x[:0]), on_device(numbers(9, np.float32))[1:]):
        assert op.fastest(device, [there], options)[2] is op.formula
