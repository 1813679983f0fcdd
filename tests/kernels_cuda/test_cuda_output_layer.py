"""linear_cross_entropy on the emulated device, beside its formula in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd import ops
from nanograd.kernels.cuda import output_layer
from nanograd.tensor import ADDED, no_grad
from tests.kernels_cuda.emulated import bfloat16, by_formula, every_float, few, numbers, on_device, wide

DY = np.full((), 3, np.float32)
settings = st.fixed_dictionaries(
    {"label_smoothing": st.sampled_from([0.0, 0.1]), "z_loss": st.sampled_from([0.0, 1e-2])}
)


def targets(N, V, ignored=None):
    """Any tokens; every third one -100 if some are to be ignored."""
    t = np.random.default_rng(7).integers(0, V, N)
    if ignored:
        t[::3] = ignored
    return t


def near(found, right, dtype):
    """As a whole, for the rounding of a logit moves all probabilities of its row."""
    error = np.linalg.norm(wide(found.held) - right) / max(np.linalg.norm(right), 1e-30)
    assert error < {"float32": 3e-6, "float16": 2e-3, "bfloat16": 1.5e-2}[np.dtype(dtype).name]


def layer(N, C, V, dtype, *, bias):
    """x, weight, bias or None: logits of about normal size."""
    x, weight = numbers((N, C), dtype), (numbers((V, C), np.float32, seed=1) * C**-0.5).astype(dtype)
    return [x, weight, numbers(V, dtype, seed=2) if bias else None]


@every_float
@given(
    sizes=st.sampled_from([(1, 8, 16), (7, 16, 40), (9, 24, 136), (6, 8, 65)]),
    options=settings,
    ignored=st.sampled_from([None, -100]),
    bias=st.booleans(),
)
@few(6)
def test_the_output_layer_in_chunks(device, dtype, sizes, options, ignored, bias):
    N, C, V = sizes
    output_layer.CHUNK, before = 4 * V, output_layer.CHUNK
    try:
        arrays = [*layer(N, C, V, dtype, bias=bias), targets(N, V, ignored)]
        needs = (True, True, bias, False)
        loss, gradients = through(device, arrays, needs, (None, None, None, None), options)
    finally:
        output_layer.CHUNK = before
    right, slopes = by_formula(ops.linear_cross_entropy, arrays, DY, needs, **options)
    assert loss.dtype == np.float32
    near(loss, right, dtype)
    for found, slope in zip(gradients[:3], slopes, strict=False):
        if slope is not None:
            near(found, slope, dtype)


def through(device, arrays, needs, into, options, dy=DY):
    y, saved, rule = ops.linear_cross_entropy.fastest(
        device, [x if x is None else on_device(x) for x in arrays], options
    )
    assert rule is not ops.linear_cross_entropy.formula
    return y, rule.backward(device, on_device(dy), *saved, needs=needs, into=into, **options)


@pytest.mark.parametrize("dtype", [np.float32, bfloat16], ids=str)
def test_gradients_are_added_to_those_that_wait(device, dtype):
    arrays = [*layer(6, 16, 40, np.dtype(dtype), bias=True), targets(6, 40)]
    waiting = [numbers(a.shape, dtype if i == 0 else np.float32, seed=5) for i, a in enumerate(arrays[:3])]
    into = (*map(on_device, waiting), None)
    _, answers = through(device, arrays, (True, True, True, False), into, {})
    assert answers == (ADDED, ADDED, ADDED, None)
    for found, before, slope in zip(into, waiting, by_formula(ops.linear_cross_entropy, arrays, DY)[1], strict=False):
        if slope is not None:
            near(found, wide(before) + slope, dtype)


def test_small_shares_survive_float16(device):
    """A slope of p · 1e-4 / 60 is far below 6e-8, the smallest float16; that of a weight is a float32."""
    N, V, needs = 60, 128, (True, True, False, False)
    arrays, dy = [*layer(N, 8, V, np.float16, bias=False), targets(N, V)], np.full((), 1e-4, np.float32)
    _, (_, dweight, *_) = through(device, arrays, needs, (None,) * 4, {}, dy=dy)
    near(dweight, by_formula(ops.linear_cross_entropy, arrays, dy, needs)[1][1], np.float16)


def test_without_a_gradient_nothing_is_made_for_it(device):
    arrays = [*layer(5, 8, 24, np.float32, bias=True), targets(5, 24)]
    with no_grad():
        loss, saved, _ = ops.linear_cross_entropy.fastest(device, [on_device(x) for x in arrays], {})
    assert all(x is None for x in saved)
    near(loss, by_formula(ops.linear_cross_entropy, arrays, DY)[0], np.float32)


def test_nothing_waits_for_the_device(device):
    arrays = [on_device(x) for x in (*layer(5, 8, 24, np.float32, bias=True), targets(5, 24).astype(np.int32))]
    dy = on_device(DY)
    device.counts.clear()
    _, saved, rule = ops.linear_cross_entropy.fastest(device, arrays, {"label_smoothing": 0.1})
    rule.backward(device, dy, *saved, needs=(True, True, True, False), into=(None,) * 4, label_smoothing=0.1)
    assert device.counts["sync"] == device.counts["h2d"] == 0
