"""for_each: every task once, on any number of threads and any layer of Numba's, and an error that arrives."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from numba import njit

from nanograd.kernels.cpu.threads import for_each


@njit
def _mark(i, marks, amount):
    marks[i] += amount * (i + 1)


@njit
def _mark_all(n, marks, amount):
    for_each(_mark, n, (marks, amount))


@njit
def _allocate(i, n):
    np.empty(n)[0] = i


@njit(error_model="numpy")
def _allocate_all(n):
    for_each(_allocate, 2, (n,))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 1000])
def test_every_task_runs_once(n, threads):
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("Numba was started with one thread")
    marks, before = np.zeros(n), numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        _mark_all(n, marks, 0.5)
    finally:
        numba.set_num_threads(before)
    np.testing.assert_array_equal(marks, np.arange(1, n + 1) / 2)


def test_a_task_without_memory_is_no_silence():
    with pytest.raises(MemoryError, match="memory"):
        _allocate_all(1 << 50)


def test_other_threading_layers_do_the_same():
    code = "from tests.nanograd import test_threads as t; t.test_every_task_runs_once(1000, 2)"
    environment = {**os.environ, "NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
