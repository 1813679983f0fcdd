"""Batches made ahead by threads are the same batches; errors arrive; no thread is left."""

import threading
import time

import numpy as np
import pytest

from nanograd.data import DataError, Prefetch, TrainingBatches


def loader():
    return TrainingBatches(np.arange(3000, dtype=np.uint16), batch_size=3, context_length=8, seed=0)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("ahead", [0, 1, 3, 8])
def test_batches_made_ahead_are_the_same(ahead):
    plain = loader()
    with Prefetch(loader(), ahead=ahead) as batches:
        for i in [*range(150), 40, 41, 7, 149]:
            np.testing.assert_array_equal(batches.batch(i).inputs, plain.batch(i).inputs)
    assert threads() == []


class Faulty:
    def __init__(self, *, bad):
        self.bad, self.made = bad, []

    def batch(self, index):
        self.made.append(index)
        if index == self.bad:
            raise DataError("shard.npy was cut during the run")
        return loader().batch(index)


def test_an_error_in_a_thread_arrives_where_its_batch_is_asked_for():
    with Prefetch(Faulty(bad=3), ahead=2) as batches:
        for i in range(3):
            batches.batch(i)
        with pytest.raises(DataError, match="was cut during the run"):
            batches.batch(3)
    assert threads() == []


def test_batches_are_made_before_they_are_asked_for():
    faulty = Faulty(bad=-1)
    with Prefetch(faulty, ahead=2) as batches:
        batches.batch(0)
        until = time.monotonic() + 120
        while len(faulty.made) < 3 and time.monotonic() < until:
            time.sleep(0.001)
        assert sorted(faulty.made) == [0, 1, 2]


def test_leaving_early_leaves_no_thread():
    def train():
        with Prefetch(loader(), ahead=4) as batches:
            batches.batch(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert threads() == []
