"""packed_head_norm on the emulated device, beside its formula in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd import ops
from tests.kernels_cuda.emulated import (
    assert_close,
    bfloat16,
    by_formula,
    by_twin,
    every_float,
    few,
    numbers,
    on_device,
)

OP = ops.head_norm.packed_head_norm


def compare(device, shape, dtype, n_heads):
    qkv, dy = numbers(shape, dtype), numbers(shape, dtype, seed=1)
    y, dx = by_twin(device, OP, [qkv], dy, n_heads=n_heads, eps=1e-3)
    right, slope = by_formula(OP, [qkv], dy, n_heads=n_heads, eps=1e-3)
    for ours, other in ((y, right), (dx, slope)):
        assert ours.dtype == dtype
        assert_close(ours, other, ulps=4, floor=np.abs(other).max())


@every_float
@given(
    heads=st.sampled_from([(1, 1, 1), (2, 3, 2), (1, 5, 3)]),
    D=st.sampled_from([1, 4, 8, 20, 33, 64, 96, 128]),
)
@few(6)
def test_heads_of_any_width(device, dtype, heads, D):
    B, T, H = heads
    compare(device, (B, T, 3 * H * D), dtype, H)


@pytest.mark.slow
@pytest.mark.examples
@every_float
@given(T=st.integers(1, 20), H=st.integers(1, 6), D=st.integers(1, 256))
@few(30)
def test_heads_of_all_widths(device, dtype, T, H, D):
    compare(device, (1, T, 3 * H * D), dtype, H)


@pytest.mark.parametrize(("D", "dtype"), [(512, np.float32), (1024, bfloat16), (255, np.float32)], ids=str)
def test_the_widest_heads_take_a_whole_warp(device, D, dtype):
    compare(device, (1, 3, 6 * D), np.dtype(dtype), 2)


def test_what_has_no_kernel_is_left_to_the_formula(device):
    for D, dtype in ((516, np.float32), (257, np.float32), (8, np.float64)):
        qkv = on_device(numbers((1, 1, 3 * D), dtype))
        assert OP.twins[device][0].forward(device, qkv, n_heads=1) is NotImplemented


def test_a_gradient_that_begins_anywhere(device):
    qkv, dy = numbers((1, 2, 48), np.float32), numbers(97, np.float32, seed=1)
    _, saved, rule = OP.fastest(device, [on_device(qkv)], {"n_heads": 2})
    dx = rule.backward(device, on_device(dy)[1:].reshape(1, 2, 48), *saved, n_heads=2, needs=(True,))
    assert_close(dx, by_formula(OP, [qkv], dy[1:].reshape(1, 2, 48), n_heads=2)[1], ulps=8)
