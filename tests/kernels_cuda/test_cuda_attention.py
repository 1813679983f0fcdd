"""Flash attention on the emulated device, beside the formula in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd import ops
from tests.kernels_cuda.emulated import bfloat16, by_formula, by_twin, few, numbers, on_device, wide

float16 = np.dtype(np.float16)
KEY = (20260102, 3)
# The greatest difference as a share of the greatest number, or of 1 if that is less. Measured in the default run: at
# most 0.0072 and 0.00045; where δ all but cancels dp, with a window of one key and dropout, 0.0016 in float16.
TOLERANCE = {bfloat16: 0.03, float16: 0.004}


def compare(device, op, arrays, *more, **options):
    """Value and gradients by the twin and by the formula."""
    parts = 3 if op is ops.packed_attention else 1
    dtype, dy = arrays[0].dtype, numbers((*arrays[0].shape[:-1], arrays[0].shape[-1] // parts), arrays[0].dtype, seed=7)
    y, gradients = by_twin(device, op, [*arrays, *more], dy, **options)
    right, slopes = by_formula(op, [*arrays, *more], dy, **options)
    for name, found, expected in zip(("y", "dq", "dk", "dv"), (y, *gradients), (right, *slopes), strict=False):
        if expected is not None:
            assert found.dtype == dtype
            assert found.shape == expected.shape
            # A query that sees a single key has a slope of zero: what is left of dp − dy · y is then y's own rounding.
            error = np.abs(wide(found.held) - expected).max() / max(np.abs(expected).max(), 2.0)
            assert error < TOLERANCE[dtype], f"{name} is off by {error:.4f} of its greatest number"


def packed(B, H, T, D, dtype=bfloat16):
    return [numbers((B, T, 3 * H * D), dtype)]


def separate(B, H, G, T, S, D, dtype=bfloat16):
    return [numbers(shape, dtype, seed=i) for i, shape in enumerate([(B, H, T, D), (B, G, S, D), (B, G, S, D)])]


@given(
    T=st.integers(1, 140),
    more=st.integers(0, 70),
    D=st.sampled_from([8, 40, 64]),
    causal=st.booleans(),
    dtype=st.sampled_from([bfloat16, float16]),
)
@few(3)
def test_any_number_of_queries_and_keys(device, T, more, D, causal, dtype):
    compare(device, ops.attention, separate(1, 1, 1, T, T + more, D, dtype), causal=causal)


def test_tiles_take_turns(device):
    """Three tiles of queries, seven of keys: both buffers are filled again and again."""
    compare(device, ops.packed_attention, packed(1, 1, 290, 64), n_heads=1, causal=True)


def test_wide_heads(device):
    compare(device, ops.packed_attention, packed(1, 1, 150, 128), n_heads=1, causal=True)


def test_heads_of_two_sequences(device):
    compare(device, ops.packed_attention, packed(2, 3, 20, 16, float16), n_heads=3, causal=False, scale=0.3)


def test_grouped_heads(device):
    compare(device, ops.attention, separate(2, 4, 2, 40, 70, 32), causal=True)


def test_one_new_token_beside_a_cache(device):
    """Keys and values are views of a longer cache, as in decoding."""
    q, k, v = separate(2, 2, 1, 1, 130, 64)
    views = [on_device(q), *(on_device(x)[:, :, :100] for x in (k, v))]
    y, _, rule = ops.attention.fastest(device, views, {"causal": True})
    right, _ = by_formula(ops.attention, [q, k[:, :, :100], v[:, :, :100]], q, causal=True)
    assert rule in ops.attention.twins[device]
    np.testing.assert_allclose(wide(y.held), right, atol=0.02)


@pytest.mark.parametrize("window", [1, 30, 500])
def test_a_window(device, window):
    compare(device, ops.packed_attention, packed(1, 1, 200, 16), n_heads=1, causal=True, window=window)


def test_documents_in_a_row(device):
    """Starts within a tile, at its edge, in the future (such a query sees nothing), the other way round."""
    t = np.arange(210)
    one = np.where(t < 50, 0, np.where(t < 128, 50, 128))
    two = np.where(t == 7, 300, np.where(t < 64, 0, np.where(t < 190, 64, 3)))
    compare(device, ops.packed_attention, packed(2, 2, 210, 16), None, np.array([one, two]), n_heads=2, causal=True)


def test_masks(device):
    """One for the keys of each sequence, of which the second may see nothing; and one for each query and key."""
    some = np.arange(70) < np.array([50, 0])[:, None, None, None]
    compare(device, ops.attention, separate(2, 2, 2, 70, 70, 16), some, causal=True)
    each = np.random.default_rng(0).random((40, 70)) < 0.5
    compare(device, ops.attention, separate(1, 2, 1, 40, 70, 16), each, causal=False)


def test_slopes(device):
    """ALiBi, with a window and starts besides."""
    starts, slopes = np.repeat([0, 45], [45, 75])[None], (0.5, 0.03)
    compare(device, ops.packed_attention, packed(1, 2, 120, 16), None, starts, n_heads=2, causal=True, slopes=slopes)
    compare(device, ops.attention, separate(1, 2, 2, 9, 80, 8), causal=True, slopes=slopes, window=20, scale=0.2)


def test_dropout_drops_what_the_formula_drops(device):
    """An odd number of keys: the four words of a counter go to elements of two rows."""
    options = {"dropout": 0.4, "dropout_key": KEY, "causal": True}
    compare(device, ops.packed_attention, packed(2, 2, 37, 16), n_heads=2, **options)
    compare(device, ops.attention, separate(1, 4, 2, 20, 75, 16), **options)


def test_the_call_of_a_mask_may_lie_on_the_device(device):
    x, options = on_device(packed(1, 1, 30, 16)[0]), {"n_heads": 1, "causal": True, "dropout": 0.5}
    call = on_device(np.array(3, np.uint64))
    here, there = (
        ops.packed_attention.fastest(device, [x], {**options, "dropout_key": (7, call)})[0] for call in (3, call)
    )
    np.testing.assert_array_equal(wide(here.held), wide(there.held))


def test_great_scores(device):
    """Scores in the hundreds, also far below zero: neither infinite weights nor anything from beyond the last query."""
    for factor in (30, -30):
        q, k, v = separate(1, 1, 1, 20, 20, 16)
        q, k = np.abs(q) * factor, np.abs(k)
        y, gradients = by_twin(device, ops.attention, [q, k, v], q, causal=True)
        right, _ = by_formula(ops.attention, [q, k, v], q, causal=True)
        assert np.abs(wide(y.held) - right).max() < 0.05
        assert all(np.isfinite(wide(x.held)).all() for x in gradients)


def test_equal_inputs_give_equal_bits(device):
    """… under every schedule, which for the device is any order of threads."""
    x = packed(1, 2, 150, 16)
    runs = [by_twin(device, ops.packed_attention, x, x[0][..., :32], n_heads=2, causal=True) for _ in range(2)]
    for one, two in zip(*((y, *gradients) for y, gradients in runs), strict=True):
        assert one.held.tobytes() == two.held.tobytes()


def test_memory(device):
    """y and two numbers for each query: nothing of the size of queries times keys."""
    x = on_device(packed(1, 1, 300, 16)[0])
    _, saved, _ = ops.packed_attention.fastest(device, [x], {"n_heads": 1, "causal": True})
    assert sum(array.size for array in saved if hasattr(array, "size")) == x.size + 300 * 16 + 300


def test_what_the_twin_leaves_to_the_formula(device):
    def taken(x, *more, **options):
        arrays = [x if x is None else on_device(x) for x in (x, *more)]
        _, _, rule = ops.packed_attention.fastest(device, arrays, {"n_heads": 1, "causal": False} | options)
        return rule in ops.packed_attention.twins[device]

    x = packed(1, 1, 5, 8, float16)[0]
    assert taken(x)
    assert not taken(x.astype(np.float32))
    assert not taken(packed(1, 1, 5, 12, float16)[0])
    assert not taken(packed(1, 1, 5, 136, float16)[0])
    assert not taken(x, scale=-1.0)
    assert not taken(x, dropout=1.0)
    assert not taken(x[:, :0])


@pytest.mark.slow
@pytest.mark.examples
@given(st.data())
@few(40)
def test_everything_at_once(device, data):
    G, group = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    T, more = data.draw(st.integers(1, 300)), data.draw(st.integers(0, 150))
    D, causal = data.draw(st.sampled_from([8, 16, 64, 72, 128])), data.draw(st.booleans())
    arrays = separate(1, G * group, G, T, T + more, D, data.draw(st.sampled_from([bfloat16, float16])))
    rng = np.random.default_rng(T)
    mask = data.draw(st.sampled_from([None, rng.random((T, T + more)) < 0.7, rng.random(T + more) < 0.7]))
    starts = data.draw(st.sampled_from([None, np.sort(rng.integers(0, T, T))]))
    options = {"causal": causal, "dropout": data.draw(st.sampled_from([0.0, 0.3])), "dropout_key": KEY}
    if causal:
        options["window"] = data.draw(st.sampled_from([None, 1, 70]))
        options["slopes"] = data.draw(st.sampled_from([None, tuple(2.0**-i for i in range(G * group))]))
    compare(device, ops.attention, arrays, mask, starts, **options)
