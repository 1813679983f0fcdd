"""Batches: y is x one token later, every token comes once an epoch, batch i depends on the seed and i alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd.data import DataError, TrainingBatches, open_tokens, validation_batches

sizes = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(0, 200))


def loader(n, *, T=4, B=3, seed=0):
    return TrainingBatches(np.arange(n, dtype=np.uint16), batch_size=B, context_length=T, seed=seed)


@given(sizes, st.integers(0, 3))
def test_targets_follow_inputs(size, seed):
    T, B, extra = size
    batches = loader(3 * T + 1 + extra, T=T, B=B, seed=seed)
    for i in range(3):
        x, y, *_ = batches.batch(i)
        assert x.shape == y.shape == (B, T)
        assert x.dtype == y.dtype == np.int64
        np.testing.assert_array_equal(y, x + 1)


def test_an_epoch_holds_every_token_at_most_once_and_misses_less_than_two_windows():
    n, T = 1003, 10
    batches = loader(n, T=T, B=1)
    seen = np.concatenate([batches.batch(i)[0].ravel() for i in range(batches.sources[0].layout.n_groups)])
    assert len(np.unique(seen)) == len(seen) > n - 2 * T - 1


def test_epochs_differ_in_phase_and_order():
    batches = loader(1003, T=10, B=1)
    first, second = (
        [
            batches.batch(e * batches.sources[0].layout.n_groups + i)[0][0, 0]
            for i in range(batches.sources[0].layout.n_groups)
        ]
        for e in (0, 1)
    )
    assert sorted(first) != sorted(second)
    assert first != sorted(first)


def test_a_batch_depends_on_seed_and_number_alone():
    straight = [loader(500).batch(i)[0] for i in range(40)]
    fresh = loader(500)
    for i in (39, 0, 17, 38):
        np.testing.assert_array_equal(fresh.batch(i)[0], straight[i])
    assert not np.array_equal(loader(500, seed=1).batch(0)[0], straight[0])


def test_validation_windows_lie_side_by_side_and_never_change():
    ids = np.arange(103, dtype=np.uint32)
    batches = list(validation_batches(ids, batch_size=4, context_length=10))
    np.testing.assert_array_equal(np.concatenate([x.ravel() for x, *_ in batches]), np.arange(100))
    np.testing.assert_array_equal(np.concatenate([y.ravel() for _, y, *_ in batches]), np.arange(1, 101))
    limited = list(validation_batches(ids, batch_size=4, context_length=10, max_tokens=55))
    assert sum(y.size for _, y, *_ in limited) == 50


def test_too_few_tokens_is_said_with_numbers():
    with pytest.raises(DataError, match="training text has 8 tokens, too few for --context-length 4"):
        loader(8)
    with pytest.raises(DataError, match="validation text has 4 tokens, too few for --context-length 4"):
        next(validation_batches(np.arange(4), batch_size=1, context_length=4))


def test_tokens_are_read_from_disk_as_they_are(tmp_path):
    np.save(tmp_path / "train-00000.npy", np.array([7, 8, 9], np.uint16))
    ids = open_tokens(tmp_path, "train")
    assert isinstance(ids, np.memmap)
    assert ids.tolist() == [7, 8, 9]
