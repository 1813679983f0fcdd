"""Attention in tiles against its formula and PyTorch: shapes that fit no tile, masks, memory, threads."""

import math
import tracemalloc

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanograd import backend, ops
from nanograd.kernels.cpu import attention as _registers_the_twins  # noqa: F401
from nanograd.kernels.cpu.attention_tiles import BLOCK, STRIP
from nanograd.kernels.cpu.tile import COLUMNS, ROWS
from nanograd.random import random_words
from nanograd.tensor import Tensor
from nanograd.testing import value_and_gradients

pytestmark = pytest.mark.usefixtures("twins")

every = pytest.mark.parametrize


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def must_be_taken(op, arrays, **options):
    """The value and gradients of an operation's twin, in float32."""
    answer = op.twins[np][0].forward(np, *arrays, **options)
    assert answer is not NotImplemented
    return value_and_gradients(lambda *inputs: op(*inputs, **options), arrays)


def by_formula(op, arrays, **options):
    """The same by the formula in float64."""
    wide = [x.astype(np.float64) if x is not None and x.dtype == np.float32 else x for x in arrays]
    with backend.formulas_only():
        return value_and_gradients(lambda *inputs: op(*inputs, **options), wide)


def assert_close(found, expected, tolerance=1e-5):
    """Equal up to roundings of the largest number.

    A gradient is a sum over up to 259 queries of terms that nearly cancel: of 43,000 random calls the worst was off by
    4.5e-6 here and by 2.4e-6 in the formula in float32; half of all by less than 4e-7.
    """
    (y, gradients), (right_y, right_gradients) = found, expected
    for a, b in zip([y, *gradients], [right_y, *right_gradients], strict=True):
        assert a.dtype == np.float32
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(np.abs(b).max())))


EDGES = sorted(
    {1, 2, ROWS - 1, ROWS + 1, COLUMNS, STRIP + 1, COLUMNS + ROWS + 3, BLOCK - 1, BLOCK, BLOCK + 5, 2 * BLOCK}
)


@every("T", EDGES)
@every("causal", [True, False])
def test_packed_attention_agrees_at_the_edges_of_tiles(T, causal):
    arrays, options = [draw(2, T, 3 * 2 * 5, seed=T), None], {"n_heads": 2, "causal": causal}
    found = must_be_taken(ops.packed_attention, arrays, **options)
    assert_close(found, by_formula(ops.packed_attention, arrays, **options))


@settings(max_examples=60, deadline=None)
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 70),
    H=st.integers(1, 3),
    D=st.integers(1, 70),
    causal=st.booleans(),
    scale=st.sampled_from([None, 0.3]),
    seen=st.sampled_from([None, 0.0, 0.2, 0.9]),
    seed=st.integers(0, 9),
)
def test_packed_attention_agrees_on_any_shape_and_mask(B, T, H, D, causal, scale, seen, seed):
    rng = np.random.default_rng(seed)
    mask = None if seen is None else rng.random((B, 1, 1, T)) < seen
    arrays, options = [draw(B, T, 3 * H * D, seed=seed), mask], {"n_heads": H, "causal": causal, "scale": scale}
    found = must_be_taken(ops.packed_attention, arrays, **options)
    assert_close(found, by_formula(ops.packed_attention, arrays, **options))


@settings(max_examples=40, deadline=None)
@given(
    leading=st.sampled_from([(), (2,), (2, 3)]),
    T=st.integers(4, 40),
    cached=st.integers(0, 50),
    D=st.integers(1, 40),
    causal=st.booleans(),
    masked=st.booleans(),
    turned=st.booleans(),
)
def test_attention_agrees_with_cached_keys_and_any_layout(leading, T, cached, D, causal, masked, turned):
    S = T + cached
    query, key, value = draw(*leading, T, D), draw(*leading, S, D, seed=1), draw(*leading, S, D, seed=2)
    if turned:
        query, key = np.asfortranarray(query), np.asfortranarray(key)
    mask = np.random.default_rng(3).random(S) < 0.5 if masked else None
    arrays = [query, key, value, mask]
    found = must_be_taken(ops.attention, arrays, causal=causal)
    assert_close(found, by_formula(ops.attention, arrays, causal=causal))


@every("side", ["left", "right"])
def test_padding_changes_nothing_for_real_tokens(side):
    """Among them NaN: what is masked is never added, not even times zero."""
    T, length, H, D = 45, 33, 2, 8
    real = np.arange(T) >= T - length if side == "left" else np.arange(T) < length
    short = draw(1, length, 3 * H * D)
    padded = np.full((1, T, 3 * H * D), 7, np.float32)
    padded[:, real] = short
    y, (dqkv,) = _with_gradient_of_real_tokens(padded, real[None, None, None], real, H)
    expected, (right_dqkv,) = _with_gradient_of_real_tokens(short, None, np.ones(length, bool), H)
    np.testing.assert_allclose(y[:, real], expected, atol=1e-6)
    np.testing.assert_allclose(dqkv[:, real], right_dqkv, atol=1e-6)
    assert not dqkv[:, ~real].any()


def _with_gradient_of_real_tokens(qkv, mask, real, n_heads):
    dy = np.zeros((*qkv.shape[:2], qkv.shape[2] // 3), np.float32)
    dy[:, real] = draw(1, int(real.sum()), dy.shape[2], seed=5)
    return value_and_gradients(lambda x: ops.packed_attention(x, mask, n_heads=n_heads, causal=True), [qkv], dy)


def test_a_query_that_sees_nothing_returns_zeros_and_passes_no_gradient():
    qkv, mask = draw(2, 40, 3 * 6), np.ones((2, 1, 1, 40), bool)
    mask[0, ..., :33] = False  # left padding: the first 33 queries of sequence 0 see nothing
    mask[1] = False
    y, (dqkv,) = must_be_taken(ops.packed_attention, [qkv, mask], n_heads=2, causal=True)
    assert not y[0, :33].any()
    assert not dqkv[0, :33].any()
    assert not y[1].any()
    assert not dqkv[1].any()
    assert y[0, 33:].all()


def test_large_scores_stay_finite():
    qkv = draw(1, 50, 3 * 16) * 100
    y, (dqkv,) = must_be_taken(ops.packed_attention, [qkv, None], n_heads=1, causal=True)
    assert np.isfinite(y).all()
    assert np.isfinite(dqkv).all()


@every("T", [2, 9, 70])
def test_a_change_in_the_last_token_changes_no_bit_of_the_earlier_ones(T):
    qkv = draw(1, T, 3 * 16)
    changed = np.concatenate([qkv[:, :-1], qkv[:, -1:] + 1], axis=1)
    before, after = (ops.packed_attention(Tensor(x), None, n_heads=1, causal=True).data for x in (qkv, changed))
    np.testing.assert_array_equal(before[0, :-1], after[0, :-1])
    assert (before[0, -1] != after[0, -1]).all()


@every("S", [7, 64, 2 * BLOCK + 1])
def test_dropout_drops_what_the_formula_drops(S):
    """Queries of zeros weigh all keys alike, and the values are unit vectors: y is the weights, kept or dropped."""
    shape, key = (2, 3, 5, S), (2**33 + 1, 2**34 + 2)
    q, k, v = np.zeros((2, 3, 5, S), np.float32), draw(2, 3, S, S), np.tile(np.eye(S, dtype=np.float32), (2, 3, 1, 1))
    y, _ = must_be_taken(ops.attention, [q, k, v, None], causal=False, dropout=0.3, dropout_key=key)
    np.testing.assert_array_equal(y != 0, random_words(np, shape, key) >= int(0.3 * 2**32))


@settings(max_examples=60, deadline=None)
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 2 * BLOCK + 3),
    H=st.integers(1, 3),
    D=st.integers(1, 40),
    causal=st.booleans(),
    seen=st.sampled_from([None, 0.2, 0.9]),
    dropout=st.sampled_from([0.1, 0.9]),
    call=st.integers(0, 2**64),
)
def test_attention_with_dropout_agrees(B, T, H, D, causal, seen, dropout, call):
    rng = np.random.default_rng(T)
    mask = None if seen is None else rng.random((B, 1, 1, T)) < seen
    options = {"n_heads": H, "causal": causal, "dropout": dropout, "dropout_key": (3, call)}
    arrays = [draw(B, T, 3 * H * D, seed=T), mask]
    found = must_be_taken(ops.packed_attention, arrays, **options)
    assert_close(found, by_formula(ops.packed_attention, arrays, **options))


@every("T", [150, 2 * BLOCK + 40])
@every("n_heads", [1, 3])
@every("threads", [1, 2, 4])
def test_the_number_of_threads_changes_no_bit(threads, n_heads, T):
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip(f"Numba was started with {numba.config.NUMBA_NUM_THREADS} threads")
    B, before = 1 if n_heads == 1 else 3, numba.get_num_threads()
    call = [draw(B, T, 3 * n_heads * 8)], draw(B, T, n_heads * 8, seed=1)
    expected = value_and_gradients(lambda x: ops.packed_attention(x, None, n_heads=n_heads, causal=True), *call)
    try:
        numba.set_num_threads(threads)
        for _ in range(2):
            found = value_and_gradients(lambda x: ops.packed_attention(x, None, n_heads=n_heads, causal=True), *call)
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1][0], expected[1][0])
    finally:
        numba.set_num_threads(before)


def test_what_it_cannot_do_is_left_to_the_formula():
    qkv, (packed, *_), (separate, *_) = draw(1, 4, 12), ops.packed_attention.twins[np], ops.attention.twins[np]
    between_tokens = np.ones((4, 4), bool)
    for arrays, options in [
        ([qkv.astype(np.float64), None], {}),
        ([qkv, between_tokens], {}),
        ([qkv, None], {"dropout": 1.0, "dropout_key": (1, 2)}),
        ([qkv, None], {"dropout": 0.1}),
        ([qkv[:0], None], {}),
    ]:
        assert packed.forward(np, *arrays, n_heads=2, causal=True, **options) is NotImplemented
    assert packed.forward(np, qkv, None, n_heads=0, causal=True) is NotImplemented
    assert separate.forward(np, qkv, qkv, qkv[..., :3], None, causal=True) is NotImplemented
    assert separate.forward(np, qkv[:, -1:], qkv, qkv, None, causal=True) is NotImplemented
    assert separate.forward(np, qkv, qkv[:, :2], qkv[:, :2], None, causal=True) is NotImplemented


@every("dropout", [0.0, 0.1])
def test_nothing_of_the_size_of_the_scores_is_held(dropout):
    T, H, D = 2048, 2, 32
    qkv, options = draw(1, T, 3 * H * D), {"n_heads": 2, "causal": True, "dropout": dropout, "dropout_key": (1, 2)}
    must_be_taken(ops.packed_attention, [qkv, None], **options)  # compiled by now
    tracemalloc.start()
    x = Tensor(qkv, requires_grad=True)
    y = ops.packed_attention(x, None, **options)
    kept = sum(a.size for a in y.node.saved if isinstance(a, np.ndarray) and not np.may_share_memory(a, qkv))
    y.backward(np.ones_like(y.data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept == y.size + H * T  # y, and one number per query and head
    assert peak < 6 * qkv.nbytes < T * T * 4  # two heads: four parts of the keys, each with its share of dq


@every("D", [5, 32, 64])
def test_it_agrees_with_pytorch(D):
    torch = pytest.importorskip("torch", reason="the yardstick")
    B, T, H = 2, 131, 3
    qkv, dy = draw(B, T, 3 * H * D), draw(B, T, H * D, seed=1)
    found = value_and_gradients(lambda x: ops.packed_attention(x, None, n_heads=H, causal=True), [qkv], dy)
    x = torch.from_numpy(qkv).requires_grad_()
    q, k, v = x.view(B, T, 3, H, D).permute(2, 0, 3, 1, 4)
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1 / math.sqrt(D))
    mixed.transpose(1, 2).reshape(B, T, H * D).backward(torch.from_numpy(dy))
    np.testing.assert_allclose(found[0], mixed.detach().transpose(1, 2).reshape(B, T, H * D).numpy(), atol=2e-6)
    np.testing.assert_allclose(found[1][0], x.grad.numpy(), atol=1e-5)
