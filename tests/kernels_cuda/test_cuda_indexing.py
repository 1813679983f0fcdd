"""The embedding and its gradient on the emulated device, beside their formulas in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd import ops
from nanograd.tensor import ADDED
from tests.kernels_cuda.emulated import bfloat16, every_float, few, numbers, on_device, wide

id_types = st.sampled_from([np.uint16, np.int32, np.int64, np.uint8])


def gradient(device, weight, ids, dy, into=None):
    """y, and the gradient that the twin's backward returns or has added to `into`."""
    y, saved, rule = ops.embedding.fastest(device, [on_device(weight), on_device(ids)], {})
    assert rule is not ops.embedding.formula
    into = None if into is None else on_device(into)
    dweight, nothing = rule.backward(device, on_device(dy), *saved, needs=(True, False), into=(into, None))
    assert nothing is None
    assert (dweight is ADDED) == (into is not None)
    return y, dweight if into is None else into


def expected(weight, ids, dy):
    """In float64: picked rows, and the sum of the rows of dy for each id."""
    dweight = np.zeros(weight.shape)
    np.add.at(dweight, ids.reshape(-1), wide(dy).reshape(-1, weight.shape[1]))
    return weight[ids], dweight


@every_float
@given(C=st.sampled_from([1, 5, 8, 24, 130]), N=st.sampled_from([1, 31, 32, 33, 70, 200]), id_type=id_types)
@few(4)
def test_any_shape(device, dtype, C, N, id_type):
    """Among 40 words 200 places repeat some: runs of equal ids inside chunks, and across their borders."""
    ids = (np.random.default_rng(N).integers(0, 40, (N, 2)) ** 2 // 40).astype(id_type)
    weight, dy = numbers((40, C), dtype), numbers((N, 2, C), dtype, seed=1)
    y, dweight = gradient(device, weight, ids, dy)
    right, slope = expected(weight, ids, dy)
    np.testing.assert_array_equal(y.held, right)
    assert dweight.dtype == np.float32
    np.testing.assert_allclose(dweight.held, slope, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.examples
@every_float
@given(C=st.integers(1, 300), N=st.integers(1, 400), id_type=id_types)
@few(40)
def test_many_shapes(device, dtype, C, N, id_type):
    test_any_shape.hypothesis.inner_test(device, dtype, C, N, id_type)


@pytest.mark.parametrize("V", [255, 256, 300, 65_535, 65_536, 70_000])
def test_vocabularies_of_one_two_and_three_digits(device, V):
    """The sort goes by 8 bits at a time; the largest ids of all need the last pass."""
    random = np.random.default_rng(V)
    ids = np.concatenate([random.integers(0, V, 60), [V - 1, 0, V - 1, V - 257 if V > 256 else 1]])
    weight, dy = numbers((V, 1), bfloat16), numbers((len(ids), 1), bfloat16, seed=1)
    y, dweight = gradient(device, weight, ids, dy)
    right, slope = expected(weight, ids, dy)
    np.testing.assert_array_equal(y.held, right)
    np.testing.assert_allclose(dweight.held, slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ids", [np.zeros(300, int), np.repeat([3, 1, 3, 0], [100, 1, 64, 32]), np.arange(300) % 2])
def test_runs_over_many_chunks(device, ids):
    """One id for all; runs that end with a chunk and one place later; two ids in turn."""
    weight, dy = numbers((4, 8), np.float32), numbers((len(ids), 8), np.float32, seed=1)
    _, dweight = gradient(device, weight, ids, dy, into=np.ones((4, 8), np.float32))
    np.testing.assert_allclose(dweight.held, 1 + expected(weight, ids, dy)[1], rtol=1e-5, atol=1e-5)


@given(N=st.sampled_from([1, 100, 1500, 2100]), bits=st.sampled_from([3, 8, 13]))
@few(4)
def test_equal_ids_keep_their_order(device, N, bits):
    """Sums that round differently in any other order: 1 among numbers that cancel."""
    from nanograd.kernels.cuda.launch import launch

    ids = np.random.default_rng(N).integers(0, 1 << bits, N).astype(np.int32)
    memory = on_device(np.full(4 * N, -1, np.int32))
    bytes_of_ids = on_device(ids.view(np.uint8))
    arrays = memory[:N], memory[N : 2 * N], memory[2 * N :]
    passes = -(-(bits + 1) // 8)
    launch(device, "sort_ids", 1, 1024, *arrays, bytes_of_ids, 4, N, 1 << bits, passes)
    order = np.argsort(ids, kind="stable")
    np.testing.assert_array_equal(arrays[0].held, ids[order])
    np.testing.assert_array_equal(arrays[1].held, order)


def test_an_id_outside_of_the_vocabulary_is_seen(device):
    """Its row is NaN, and its gradient goes nowhere."""
    ids = np.array([2, 5, -1, 4, 2])
    weight, dy = numbers((5, 8), np.float32), numbers((5, 8), np.float32, seed=1)
    y, dweight = gradient(device, weight, ids, dy)
    known = (ids >= 0) & (ids < 5)
    np.testing.assert_array_equal(y.held[known], weight[ids[known]])
    assert np.isnan(y.held[~known]).all()
    np.testing.assert_allclose(dweight.held, expected(weight, ids[known], dy[known])[1], rtol=1e-6, atol=1e-6)


def test_twice_the_same_bits(device):
    ids, dy = np.arange(500) ** 2 % 7, numbers((500, 24), bfloat16)
    first, second = (gradient(device, numbers((7, 24), bfloat16), ids, dy)[1].held for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_what_the_twin_leaves_to_the_formula(device):
    weight, ids = numbers((5, 8), np.float32), np.array([1, 2])
    for table, places in ((wide(weight), ids), (weight[:, :0], ids), (weight, ids[:0])):
        assert ops.embedding.fastest(device, [on_device(table), on_device(places)], {})[2] is ops.embedding.formula
