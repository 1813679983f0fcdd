"""layer_norm and rms_norm on the emulated device, beside their formulas in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd import ops
from nanograd.kernels.cuda import normalization
from nanograd.tensor import ADDED
from tests.kernels_cuda.emulated import (
    assert_close,
    bfloat16,
    by_formula,
    by_twin,
    every_float,
    few,
    numbers,
    on_device,
    wide,
)

# one number; one thread; a part of a warp; odd; one warp; two and three warps to a row; more rows than a block has
shapes = st.sampled_from([(1, 1), (3, 8), (2, 5, 24), (3, 257), (9, 768), (2, 776), (2, 1600), (17, 33)])
operations = pytest.mark.parametrize("op", [ops.layer_norm, ops.rms_norm], ids=lambda op: op.name)


def operands(op, shape, dtype):
    """x, weight and, for layer_norm, bias: all with a mean that is not 0; and dy"""
    x, *parameters = (numbers(shape[-i:], dtype, seed=i) for i in ([0, 1, 1] if op is ops.layer_norm else [0, 1]))
    return [x, *parameters], numbers(shape, dtype, seed=3)


def compare(found, right):
    y, gradients = right
    assert_close(found[0], y, ulps=4, floor=np.abs(y).max())
    for i, (ours, other) in enumerate(zip(found[1], gradients, strict=True)):
        assert ours.dtype == (found[0].dtype if i == 0 else np.float32)
        assert_close(ours, other, ulps=8, floor=max(1.0, np.abs(other).max()))


@operations
@every_float
@given(shape=shapes)
@few(5)
def test_rows_of_any_width(device, op, dtype, shape):
    arrays, dy = operands(op, shape, dtype)
    compare(by_twin(device, op, arrays, dy, eps=1e-3), by_formula(op, arrays, dy, eps=1e-3))


@pytest.mark.slow
@pytest.mark.examples
@operations
@every_float
@given(N=st.integers(1, 40), C=st.integers(1, 2000))
@few(30)
def test_rows_of_all_widths(device, op, dtype, N, C):
    arrays, dy = operands(op, (N, C), dtype)
    compare(by_twin(device, op, arrays, dy, eps=1e-3), by_formula(op, arrays, dy, eps=1e-3))


@pytest.mark.parametrize(
    ("op", "C", "dtype"),
    [(ops.layer_norm, 8192, np.float32), (ops.layer_norm, 8192, bfloat16), (ops.rms_norm, 4095, np.float32)],
    ids=("float32", "bfloat16", "odd"),
)
def test_the_widest_rows_take_a_whole_block(device, op, C, dtype):
    arrays, dy = operands(op, (2, C), np.dtype(dtype))
    compare(by_twin(device, op, arrays, dy), by_formula(op, arrays, dy))


@operations
def test_what_has_no_kernel_is_left_to_the_formula(device, op):
    for shape in ((2, 8200), (2, 12289)):  # more than the registers of a block hold
        arrays = [on_device(x) for x in operands(op, shape, np.float32)[0]]
        assert op.twins[device][0].forward(device, *arrays) is NotImplemented
    for dtype, shape in ((np.float64, (2, 8)), (np.float32, (0, 8))):
        arrays = [on_device(x) for x in operands(op, shape, dtype)[0]]
        assert op.twins[device][0].forward(device, *arrays) is NotImplemented


def test_no_bias(device):
    (x, weight, _), dy = operands(ops.layer_norm, (3, 40), np.float32)
    arrays, needs = [x, weight, None], (True, True, False)
    y, (dx, dweight, dbias) = by_twin(device, ops.layer_norm, arrays, dy, needs)
    right, gradients = by_formula(ops.layer_norm, arrays, dy, needs)
    assert dbias is None
    for ours, other in zip((y, dx, dweight), (right, *gradients), strict=False):
        assert_close(ours, other, floor=np.abs(other).max())


def test_a_large_mean_costs_no_digits(device):
    """⟨x²⟩ − μ² in float32 would be off by more than σ² here."""
    x, ones = numbers((2, 64), np.float32) + np.float32(4096), np.ones(64, np.float32)
    y, _ = by_twin(device, ops.layer_norm, [x, ones, ones], x)
    assert_close(y, by_formula(ops.layer_norm, [x, ones, ones], x)[0], ulps=4096)


@operations
@pytest.mark.parametrize(("dtype", "C"), [(np.float32, 24), (bfloat16, 24), (bfloat16, 25)], ids=str)
def test_gradients_are_added_to_those_that_wait(device, op, dtype, C):
    """As the residual stream's gradient does, and the parameters' in their flat buffer."""
    arrays, dy = operands(op, (21, C), np.dtype(dtype))
    right = by_formula(op, arrays, dy)[1]
    _, saved, rule = op.fastest(device, [on_device(x) for x in arrays], {})
    waiting = [numbers(a.shape, dtype if i == 0 else np.float32, seed=5) for i, a in enumerate(arrays)]
    into = tuple(map(on_device, waiting))
    answers = rule.backward(device, on_device(dy), *saved, needs=(True,) * len(arrays), into=into)
    assert all(answer is ADDED for answer in answers)
    for found, before, slope in zip(into, waiting, right, strict=True):
        assert_close(found, wide(before) + slope, ulps=8, floor=max(1.0, np.abs(slope).max()))


def test_gradients_that_nobody_needs_and_places_that_do_not_fit(device):
    (x, weight, bias), dy = operands(ops.layer_norm, (4, 16), bfloat16)
    _, saved, rule = ops.layer_norm.fastest(device, [on_device(a) for a in (x, weight, bias)], {})
    into = on_device(np.zeros(x.shape, np.float32)), None, None  # in float32, where the slope is bfloat16
    dx, dweight, dbias = rule.backward(device, on_device(dy), *saved, needs=(True, False, True), into=into)
    right = by_formula(ops.layer_norm, [x, weight, bias], dy)[1]
    assert dweight is None
    assert dx.dtype == bfloat16
    assert_close(dx, right[0], ulps=8)
    assert_close(dbias, right[2], ulps=8)


def test_a_gradient_that_begins_anywhere(device):
    """A view into a larger array, off the 16-byte grid."""
    arrays, _ = operands(ops.rms_norm, (4, 8), np.float32)
    dy = numbers(33, np.float32, seed=3)
    _, saved, rule = ops.rms_norm.fastest(device, [on_device(a) for a in arrays], {})
    slopes = rule.backward(device, on_device(dy)[1:].reshape(4, 8), *saved, needs=(True, True), into=(None, None))
    for ours, other in zip(slopes, by_formula(ops.rms_norm, arrays, dy[1:].reshape(4, 8))[1], strict=True):
        assert_close(ours, other, ulps=8, floor=np.abs(other).max())


def test_more_rows_than_all_blocks_take_at_a_time(device, monkeypatch):
    monkeypatch.setattr(normalization, "BLOCKS", 3)
    arrays, dy = operands(ops.layer_norm, (61, 16), np.float32)
    compare(by_twin(device, ops.layer_norm, arrays, dy), by_formula(ops.layer_norm, arrays, dy))


SUMS: list[bytes] = []  # of the schedules before


def test_sums_do_not_depend_on_who_runs_when(device):
    arrays, dy = operands(ops.layer_norm, (40, 1544), np.float32)
    _, (_, dweight, dbias) = by_twin(device, ops.layer_norm, arrays, dy)
    SUMS.append(dweight.get().tobytes() + dbias.get().tobytes())
    assert SUMS[-1] == SUMS[0]
