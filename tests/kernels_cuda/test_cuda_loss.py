"""cross_entropy on the emulated device, beside its formula in float64."""

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
    ml_dtypes,
    numbers,
    on_device,
    wide,
)

DY = np.full((), 3, np.float32)
# a token alone; rows that begin anywhere; whole packs; the tokens of a character model; more than a block's threads
shapes = st.sampled_from([(1, 1), (2, 3, 5), (3, 65), (2, 128), (5, 1031), (2, 4096)])
settings = st.fixed_dictionaries(
    {"label_smoothing": st.sampled_from([0.0, 0.1]), "z_loss": st.sampled_from([0.0, 1e-2])}
)


def targets(N, V, ignored=None):
    """Any tokens; every third one -100 if some are to be ignored."""
    t = np.random.default_rng(7).integers(0, V, N)
    if ignored:
        t[::3] = ignored
    return t


def slopes_agree(dz, slope):
    """To the rounding of the type and a few more of float32, as p − 1 is the difference of numbers that may be near."""
    np.testing.assert_allclose(wide(dz.held), slope, rtol=1e-5 + float(ml_dtypes.finfo(dz.dtype).eps), atol=2e-6)


def compare(device, z, t, **options):
    """Loss and gradient by the twin and by the formula."""
    loss, (dz, _) = by_twin(device, ops.cross_entropy, [z, t], DY, **options)
    right, (slope, _) = by_formula(ops.cross_entropy, [z, t], DY, **options)
    assert loss.dtype == np.float32
    assert_close(loss, right, ulps=16, floor=max(1.0, abs(right)))
    assert dz.dtype == z.dtype
    slopes_agree(dz, slope)


@every_float
@given(shape=shapes, options=settings, ignored=st.sampled_from([None, -100]))
@few(6)
def test_cross_entropy(device, dtype, shape, options, ignored):
    z = (4 * numbers(shape, np.float32)).astype(dtype)
    compare(device, z, targets(z.size // shape[-1], shape[-1], ignored).reshape(shape[:-1]), **options)


@pytest.mark.slow
@pytest.mark.examples
@every_float
@given(N=st.integers(1, 12), V=st.integers(1, 9000), options=settings, ignored=st.sampled_from([None, -100]))
@few(30)
def test_cross_entropy_over_any_vocabulary(device, dtype, N, V, options, ignored):
    compare(device, (4 * numbers((N, V), np.float32)).astype(dtype), targets(N, V, ignored), **options)


@pytest.mark.parametrize(("V", "dtype"), [(50304, bfloat16), (50257, np.float16)], ids=str)
def test_the_vocabulary_of_gpt_2(device, V, dtype):
    z, t = (4 * numbers((2, V), np.float32)).astype(dtype), targets(2, V)
    loss, (dz, _) = by_twin(device, ops.cross_entropy, [z, t], DY)
    right, (slope, _) = by_formula(ops.cross_entropy, [z, t], DY)
    assert_close(loss, right, ulps=64)
    slopes_agree(dz, slope)


def test_an_offset_of_all_logits_changes_nothing(device):
    z, t = numbers((3, 200), np.float32).round(3), targets(3, 200)
    for offset in (0.0, -5e4, 5e4):
        moved = (z + np.float32(offset)).astype(np.float32)
        loss, (dz, _) = by_twin(device, ops.cross_entropy, [moved, t], DY, label_smoothing=0.1)
        right, (slope, _) = by_formula(ops.cross_entropy, [moved, t], DY, label_smoothing=0.1)
        assert_close(loss, right, ulps=32)
        slopes_agree(dz, slope)


def test_tokens_that_are_ruled_out(device):
    """Logits of −∞ take no part: not even where they stand first, or fill a thread's whole share."""
    z, t = numbers((3, 4099), np.float32), np.array([4098, 5, 4000])
    z[:, :4] = z[0, 200:4090] = -np.inf
    loss, (dz, _) = by_twin(device, ops.cross_entropy, [z, t], DY)
    right, (slope, _) = by_formula(ops.cross_entropy, [z, t], DY)
    assert_close(loss, right, ulps=16)
    slopes_agree(dz, slope)


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.int32])
def test_ids_of_any_integer_type_and_another_id_to_ignore(device, dtype):
    z, t = numbers((5, 24), np.float32), np.array([23, 0, 7, 7, 1], dtype)
    found = by_twin(device, ops.cross_entropy, [z, t], DY, ignore_index=7)
    right = by_formula(ops.cross_entropy, [z, t], DY, ignore_index=7)
    assert_close(found[0], right[0])
    slopes_agree(found[1][0], right[1][0])


def test_no_real_target(device):
    z, t = numbers((2, 9), np.float32), np.array([-100, -100])
    loss, (dz, _) = by_twin(device, ops.cross_entropy, [z, t], DY)
    assert not loss.get()
    assert not dz.get().any()


@pytest.mark.parametrize("id_", [24, -1, 2**31 - 1])
def test_a_target_that_is_no_token_gives_nan_and_reads_nothing(device, id_):
    loss, _ = by_twin(device, ops.cross_entropy, [numbers((2, 24), np.float32), np.array([3, id_])], DY)
    assert np.isnan(loss.get())


def test_what_has_no_kernel_is_left_to_the_formula(device):
    forward = ops.cross_entropy.twins[device][0].forward
    z, t = on_device(numbers((2, 8), np.float64)), on_device(np.array([1, 2]))
    assert forward(device, z, t) is NotImplemented
    z = on_device(numbers((2, 8), np.float32))
    assert forward(device, z, t[:1]) is NotImplemented
    assert forward(device, z, t, ignore_index=2**40) is NotImplemented
    assert forward(device, on_device(numbers((2, 16), np.float32))[:, ::2], t) is NotImplemented
