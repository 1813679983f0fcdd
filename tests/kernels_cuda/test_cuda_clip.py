"""Σ g² on the emulated device, beside float64."""

import numpy as np
import pytest

from nanograd.kernels.cuda import clip
from tests.kernels_cuda.emulated import every_float, numbers, on_device, wide


@every_float
@pytest.mark.parametrize("n", [0, 1, 7, 4099, 20000])
def test_squares(device, dtype, n):
    g = numbers(n, dtype)
    found = clip.squares(device, on_device(g))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found.get(), (wide(g) ** 2).sum(), rtol=3e-6)


def test_more_numbers_than_all_threads_take_at_a_time(device, monkeypatch):
    monkeypatch.setattr(clip, "BLOCKS", 3)
    for n in (3 * clip.THREADS * 4 * 5, 3 * clip.THREADS * 4 * 5 + 3):
        g = numbers(n, np.float32)
        np.testing.assert_allclose(clip.squares(device, on_device(g)).get(), (wide(g) ** 2).sum(), rtol=3e-6)


def test_an_array_that_begins_anywhere(device):
    g = numbers(1001, np.float32)
    found = clip.squares(device, on_device(g)[1:])
    np.testing.assert_allclose(found.get(), (wide(g[1:]) ** 2).sum(), rtol=3e-6)


def test_large_partial_sums_meet_in_float64(device):
    """2³² + 1 is 2³² in float32: a block's square of 2³² would swallow those of the other blocks."""
    g = np.zeros(16 * 1024, np.float32)
    g[::1024] = 1  # a 1 for each of 16 blocks
    g[0] = 2.0**16
    assert clip.squares(device, on_device(g)).get() == 2.0**32 + 15


def test_what_is_no_number_stays_none(device):
    for bad in (np.inf, np.nan):
        g = np.array([1, bad, 2], np.float32)
        assert not np.isfinite(clip.squares(device, on_device(g)).get())


SUMS: list[float] = []  # of the schedules before


def test_the_sum_does_not_depend_on_who_runs_when(device):
    SUMS.append(float(clip.squares(device, on_device(numbers(30011, np.float32))).get()))
    assert SUMS[-1] == SUMS[0]


def test_takes(device):
    g = on_device(numbers((4, 8), np.float32))
    assert clip.takes(g.reshape(-1))
    assert not clip.takes(g)
    assert not clip.takes(g.reshape(-1)[::2])
    assert not clip.takes(on_device(np.zeros(3)))
