"""Rotary positions on the emulated device, beside their formulas in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd import ops
from pre_process.encode_position import Scaling
from tests.kernels_cuda.emulated import assert_close, by_formula, by_twin, every_float, few, numbers, on_device, wide

layouts = pytest.mark.parametrize("layout", ["halves", "pairs"])
SCALINGS = [Scaling(kind, 4.0, 64) for kind in ("linear", "ntk", "yarn", "llama3")]


def compare(device, op, x, positions, **options):
    """Value and gradient by the twin and by the formula."""
    dy = numbers(x.shape, x.dtype, seed=1)
    found = by_twin(device, op, [x, positions], dy, **options)
    right = by_formula(op, [x, positions], dy, **options)
    for ours, truth in ((found[0], right[0]), (found[1][0], right[1][0])):
        assert ours.dtype == x.dtype
        assert_close(ours, truth, ulps=4, floor=2)


@layouts
@every_float
@given(D=st.sampled_from([2, 6, 8, 16, 64]), n_heads=st.integers(1, 3), T=st.sampled_from([1, 5, 33]))
@few(4)
def test_packed(device, layout, dtype, D, n_heads, T):
    """Heads in whole packs and in pieces; queries and keys turn, values stay."""
    x, positions = numbers((2, T, 3 * n_heads * D), dtype), np.arange(T, dtype=np.int32)
    compare(device, ops.packed_rotary, x, positions, n_heads=n_heads, layout=layout)


@pytest.mark.slow
@pytest.mark.examples
@layouts
@every_float
@given(D=st.integers(1, 70).map(lambda i: 2 * i), n_heads=st.integers(1, 7), T=st.integers(1, 50))
@few(40)
def test_many_packed(device, layout, dtype, D, n_heads, T):
    test_packed.hypothesis.inner_test(device, layout, dtype, D, n_heads, T)


@layouts
@every_float
@given(shape=st.sampled_from([((6,), (1,)), ((2, 5), (5,)), ((2, 3, 5), (2, 1, 5)), ((7, 3), (7, 1)), ((4,), ())]))
@few(4)
def test_positions_that_broadcast(device, layout, dtype, shape):
    rows, places = shape
    positions = np.random.default_rng(1).integers(0, 5000, places)
    compare(device, ops.rotary, numbers((*rows, 16), dtype), positions, layout=layout)


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: scaling.kind)
def test_scalings(device, scaling):
    x, positions = numbers((2, 9, 3 * 2 * 32), np.float32), 17 * np.arange(18).reshape(2, 9)
    compare(device, ops.packed_rotary, x, positions, n_heads=2, scaling=scaling, base=500.0)


@pytest.mark.parametrize("base", [10_000.0, 0.5])
def test_positions_far_out(device, base):
    """A million is a whole turn to a part in 10⁷ only in more than float32; and before 0 all turns the other way."""
    compare(device, ops.rotary, numbers((6, 64), np.float32), np.array([10**6, 123_457, -3, -(10**6), 0, 1]), base=base)


def test_a_row_that_one_block_takes_in_several_goes(device):
    """12 heads of 64 float32 numbers are 192 units for 128 threads; and values behind them."""
    compare(device, ops.packed_rotary, numbers((1, 2, 3 * 6 * 64), np.float32), np.arange(2) + 40, n_heads=6)


def test_a_gradient_off_the_grid_of_16_bytes(device):
    x, dy = numbers((4, 8), np.float32), numbers(33, np.float32, seed=1)
    arrays = [x, np.arange(4)]
    _, saved, rule = ops.rotary.fastest(device, list(map(on_device, arrays)), {})
    dx, _ = rule.backward(device, on_device(dy)[1:].reshape(4, 8), *saved, needs=(True, False))
    assert_close(dx, by_formula(ops.rotary, arrays, dy[1:].reshape(4, 8))[1][0], ulps=4, floor=2)


def test_the_hands_speeds_are_copied_to_the_device_once(device):
    x, positions = on_device(numbers((3, 8), np.float32)), on_device(np.arange(3))
    ops.rotary.fastest(device, [x, positions], {"base": 777.0})
    device.counts.clear()
    ops.rotary.fastest(device, [x, positions], {"base": 777.0})
    assert device.counts["h2d"] == device.counts["sync"] == 0


def test_what_the_twin_leaves_to_the_formula(device):
    x, positions = numbers((4, 8), np.float32), on_device(np.arange(4))
    for there in (on_device(wide(x)), on_device(numbers((4, 16), np.float32))[:, ::2]):
        assert ops.rotary.fastest(device, [there, positions], {})[2] is ops.rotary.formula


def test_the_same_errors_as_the_formula(device):
    for x, positions, options, message in (
        (numbers((4, 7), np.float32), np.arange(4), {}, "can't be cut into pairs"),
        (numbers((4, 8), np.float32), np.arange(3), {}, "must broadcast"),
        (numbers((4, 8), np.float32), np.arange(4), {"layout": "rows"}, "layout"),
    ):
        with pytest.raises(ValueError, match=message):
            ops.rotary.fastest(device, [on_device(x), on_device(positions)], options)
