"""Attention in tiles that knows documents and ALiBi: against its formula, and skipping what nobody sees."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanograd import nn, ops
from nanograd.kernels.cpu import attention as _registers_the_twins  # noqa: F401
from nanograd.kernels.cpu.attention_tiles import BLOCK
from nanograd.tensor import Tensor
from nanograd.testing import value_and_gradients
from tests.nanograd.test_attention_kernel import assert_close, by_formula, draw, must_be_taken

pytestmark = pytest.mark.usefixtures("twins")
LONGEST = 2 * int(BLOCK) + 40


def documents(B: int, T: int, mean: int, seed: int = 0) -> np.ndarray:
    """starts (B, T) of documents that are `mean` tokens long on average."""
    begins = np.random.default_rng(seed).random((B, T)) < 1 / mean
    return nn.document_starts(np.cumsum(begins, axis=1))


def slopes_of(n_heads: int) -> tuple[float, ...]:
    return tuple(0.5 ** (h + 1) for h in range(n_heads))


@settings(max_examples=80, deadline=None)
@given(
    B=st.integers(1, 3),
    T=st.integers(1, LONGEST),
    H=st.integers(1, 3),
    D=st.integers(1, 40),
    mean=st.sampled_from([None, 1, 2, 9, 33, 150]),
    alibi=st.booleans(),
    seen=st.sampled_from([None, 0.2, 0.9]),
    dropout=st.sampled_from([0.0, 0.3]),
)
def test_packed_attention_agrees(B, T, H, D, mean, alibi, seen, dropout):
    mask = None if seen is None else np.random.default_rng(T).random((B, 1, 1, T)) < seen
    starts = None if mean is None else documents(B, T, mean, seed=T)
    options = {"n_heads": H, "causal": True, "dropout": dropout, "dropout_key": (3, T)}
    options["slopes"] = slopes_of(H) if alibi else None
    arrays = [draw(B, T, 3 * H * D, seed=T), mask, starts]
    found = must_be_taken(ops.packed_attention, arrays, **options)
    assert_close(found, by_formula(ops.packed_attention, arrays, **options))


@settings(max_examples=60, deadline=None)
@given(
    leading=st.sampled_from([(), (2,), (2, 3)]),
    T=st.integers(4, 140),
    cached=st.integers(0, 150),
    D=st.integers(1, 33),
    causal=st.booleans(),
    same_for_all=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_starts_agree_also_with_cached_keys(leading, T, cached, D, causal, same_for_all, seed):
    """Starts in no order, behind the query, behind all keys, before the first."""
    S, rng = T + cached, np.random.default_rng(seed)
    starts = rng.integers(-3, S + 4, T if same_for_all else (*leading, T)).astype(np.int32)
    slopes = slopes_of(leading[-1] if leading else 1) if causal else None
    arrays = [draw(*leading, T, D), draw(*leading, S, D, seed=1), draw(*leading, S, D, seed=2), None, starts]
    found = must_be_taken(ops.attention, arrays, causal=causal, slopes=slopes)
    assert_close(found, by_formula(ops.attention, arrays, causal=causal, slopes=slopes))


def test_documents_in_a_row_have_the_numbers_that_they_have_alone():
    lengths, H, D = [3, 130, 1, 64, 70], 2, 16
    qkv, dy = draw(1, sum(lengths), 3 * H * D), draw(1, sum(lengths), H * D, seed=1)
    starts = nn.document_starts(np.repeat(np.arange(len(lengths)), lengths)[None])

    def attend(x, dy, starts=None):
        return value_and_gradients(
            lambda x: ops.packed_attention(x, None, starts, n_heads=H, causal=True, slopes=slopes_of(H)), [x], dy
        )

    y, (dqkv,) = attend(qkv, dy, starts)
    for end, length in zip(np.cumsum(lengths), lengths, strict=True):
        own = slice(end - length, end)
        alone_y, (alone_dqkv,) = attend(qkv[:, own], dy[:, own])
        np.testing.assert_allclose(y[:, own], alone_y, atol=2e-6)
        np.testing.assert_allclose(dqkv[:, own], alone_dqkv, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_left_out_is_never_touched(bad):
    """Not even times zero: a NaN in one document reaches no other one, forward or backward."""
    T, H, D = 2 * int(BLOCK), 1, 8
    qkv, starts = draw(1, T, 3 * H * D), np.repeat([0, int(BLOCK)], int(BLOCK))[None]
    qkv[:, : int(BLOCK)] = bad
    with np.errstate(invalid="ignore"):
        y, (dqkv,) = value_and_gradients(
            lambda x: ops.packed_attention(x, None, starts, n_heads=H, causal=True), [qkv], draw(1, T, H * D)
        )
    assert np.isfinite(y[:, int(BLOCK) :]).all()
    assert np.isfinite(dqkv[:, int(BLOCK) :]).all()


@pytest.mark.parametrize("starts", [None, np.zeros((1, 1), int)])
def test_starts_at_zero_are_no_starts(starts):
    qkv = draw(2, 150, 3 * 2 * 8)
    found = must_be_taken(ops.packed_attention, [qkv, None, starts], n_heads=2, causal=True)
    plain = must_be_taken(ops.packed_attention, [qkv, None], n_heads=2, causal=True)
    np.testing.assert_allclose(found[0], plain[0], atol=1e-6)
    np.testing.assert_allclose(found[1][0], plain[1][0], atol=1e-6)


@pytest.mark.parametrize("n_heads", [1, 3])
def test_the_number_of_threads_changes_no_bit(n_heads):
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("Numba was started with one thread")
    B, T, before = 3, 300, numba.get_num_threads()
    call = [draw(B, T, 3 * n_heads * 8)], draw(B, T, n_heads * 8, seed=1)
    starts, results = documents(B, T, 40), []
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            results.append(
                value_and_gradients(
                    lambda x: ops.packed_attention(
                        x, None, starts, n_heads=n_heads, causal=True, slopes=slopes_of(n_heads)
                    ),
                    *call,
                )
            )
    finally:
        numba.set_num_threads(before)
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1][0], results[1][1][0])


@pytest.mark.parametrize(
    ("starts", "options", "message"),
    [
        (np.zeros((2, 4), np.float32), {}, "starts must be integers"),
        (np.zeros((2, 3), int), {}, r"starts must be integers, one for each query: \(2, 1, 3\) against \(2, 2, 4\)"),
        (None, {"slopes": (1.0,)}, "1 slopes for 2 heads"),
        (None, {"slopes": (1.0, 0.5), "causal": False}, "slopes need causal=True"),
    ],
)
def test_what_makes_no_sense_is_refused(starts, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ops.packed_attention(Tensor(draw(2, 4, 12)), None, starts, **{"n_heads": 2, "causal": True, **options})
