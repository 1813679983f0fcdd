"""Positions: the paper's closed form, and the same vectors for a text wherever its padding stands."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pre_process.encode_position import add_positions, load_positions, save_positions, sinusoidal


@given(t=st.integers(0, 3000), i=st.integers(0, 95), half=st.integers(1, 96))
def test_closed_form(t: int, i: int, half: int) -> None:
    i, d_model = i % half, 2 * half
    angle = t / 10000 ** (2 * i / d_model)
    for dtype in (np.float32, np.float64):
        row = sinusoidal(t + 1, d_model, dtype=dtype)[t]
        assert row.dtype == dtype
        assert abs(float(row[2 * i]) - math.sin(angle)) < 1e-7
        assert abs(float(row[2 * i + 1]) - math.cos(angle)) < 1e-7


def test_the_first_rows_by_hand() -> None:
    expected = [[0, 1, 0, 1], [math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)]]
    np.testing.assert_allclose(sinusoidal(2, 4), expected, atol=1e-7)


@given(k=st.integers(0, 200))
def test_a_shift_is_one_rotation_for_all_positions(k: int) -> None:
    d_model = 16
    table = sinusoidal(400, d_model, dtype=np.float64)
    angle = k / 10000 ** (np.arange(0, d_model, 2) / d_model)
    sine, cosine = table[:200, 0::2], table[:200, 1::2]
    np.testing.assert_allclose(table[k : k + 200, 0::2], sine * np.cos(angle) + cosine * np.sin(angle), atol=1e-9)
    np.testing.assert_allclose(table[k : k + 200, 1::2], cosine * np.cos(angle) - sine * np.sin(angle), atol=1e-9)


@pytest.mark.parametrize(("context_length", "d_model"), [(4, 3), (4, 0), (4, 1), (-1, 4)])
def test_sizes_that_make_no_table(context_length: int, d_model: int) -> None:
    with pytest.raises(ValueError, match=f"not {context_length} and {d_model}"):
        sinusoidal(context_length, d_model)


def test_no_positions_are_an_empty_table() -> None:
    assert sinusoidal(0, 4).shape == (0, 4)


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5), left=st.booleans(), more=st.integers(0, 5))
def test_padding_moves_nothing(lengths: list[int], left: bool, more: int) -> None:
    T, C = max(lengths) + more, 6
    rng = np.random.default_rng(0)
    texts = [rng.normal(size=(length, C)).astype(np.float32) for length in lengths]
    vectors = rng.normal(size=(len(texts), T, C)).astype(np.float32)  # pads hold anything, not just zero
    mask = np.zeros((len(texts), T), bool)
    for b, text in enumerate(texts):
        real = slice(T - len(text), T) if left else slice(len(text))
        vectors[b, real], mask[b, real] = text, True
    before = vectors.copy()
    moved = add_positions(vectors, mask)
    assert moved.dtype == np.float32
    assert not moved[~mask].any()
    for b, text in enumerate(texts):
        np.testing.assert_array_equal(moved[b, mask[b]], text + sinusoidal(len(text), C))
    np.testing.assert_array_equal(vectors, before)


def test_float64_vectors_get_float64_positions() -> None:
    moved = add_positions(np.zeros((1, 3, 4)), np.ones((1, 3), bool))
    np.testing.assert_array_equal(moved[0], sinusoidal(3, 4, dtype=np.float64))


@pytest.mark.parametrize(("vectors", "mask"), [((2, 3, 4), (2, 4)), ((3, 4), (3,)), ((2, 3, 4), (3,))])
def test_wrong_shapes(vectors: tuple[int, ...], mask: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"need a mask \(B, T\)"):
        add_positions(np.zeros(vectors), np.ones(mask, bool))


def test_a_saved_table_comes_back(tmp_path: Path) -> None:
    table = sinusoidal(32, 8)
    save_positions(tmp_path / "p.npy", table)
    np.testing.assert_array_equal(load_positions(tmp_path / "p.npy"), table)
    (tmp_path / "p.npy").write_bytes((tmp_path / "p.npy").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"p\.npy is damaged"):
        load_positions(tmp_path / "p.npy")
    save_positions(tmp_path / "p.npy", table[0])
    with pytest.raises(ValueError, match=r"has shape \(8,\)"):
        load_positions(tmp_path / "p.npy")
    with pytest.raises(ValueError, match=r"missing\.npy is missing"):
        load_positions(tmp_path / "missing.npy")
