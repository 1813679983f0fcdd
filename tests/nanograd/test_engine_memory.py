"""What the engine frees, and when: the graph lives no longer than it must, and depth costs no recursion."""

import gc
import tracemalloc
import weakref
from typing import Any

import numpy as np
import pytest

from nanograd import ops
from nanograd.primitive import primitive
from nanograd.tensor import Node, Tensor

MB = 1024 * 1024


@primitive
def keeper(xp, x):
    """y = x + 1, and a megabyte remembered; backward notes how many of those megabytes are still alive"""
    saved = np.full(MB // 8, 1.0)
    SAVED.append(weakref.ref(saved))
    return x + 1, (saved,)


@keeper.backward
def _(xp, dy, saved, *, needs):
    ALIVE.append(sum(ref() is not None for ref in SAVED))
    return dy * saved[0]


SAVED: list[Any] = []
ALIVE: list[int] = []


@pytest.fixture
def _no_garbage_collector():
    SAVED.clear()
    ALIVE.clear()
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_garbage_collector")
def test_backward_frees_what_it_has_passed():
    x = Tensor(np.ones(1), requires_grad=True)
    y = x
    for _ in range(5):
        y = keeper(y)
    y.backward()
    assert ALIVE == [5, 4, 3, 2, 1]
    assert not any(ref() is not None for ref in SAVED)
    assert y.requires_grad  # the tensor is still there, only its memory is gone


@pytest.mark.usefixtures("_no_garbage_collector")
def test_backward_frees_the_nodes_even_while_the_result_is_held():
    def nodes():
        return sum(type(thing) is Node for thing in gc.get_objects())

    x = Tensor(np.ones(1), requires_grad=True)
    before, y = nodes(), x
    for _ in range(50):
        y = ops.add(y, 1.0)
    assert nodes() == before + 50
    y.backward()
    assert nodes() == before + 1  # that of y, which knows that it was walked


@pytest.mark.usefixtures("_no_garbage_collector")
def test_a_graph_nobody_walks_is_freed_with_its_last_tensor():
    y = keeper(keeper(Tensor(np.ones(1), requires_grad=True)))
    assert sum(ref() is not None for ref in SAVED) == 2
    del y
    assert sum(ref() is not None for ref in SAVED) == 0


@pytest.mark.usefixtures("_no_garbage_collector")
def test_a_leaf_does_not_keep_its_users_alive():
    x = Tensor(np.ones(1), requires_grad=True)
    keeper(x)
    assert SAVED[0]() is None


@pytest.mark.usefixtures("_no_garbage_collector")
def test_a_forgotten_leaf_dies_while_its_graph_lives():
    x = Tensor(np.ones(1), requires_grad=True)
    y, gone = ops.add(x, 1.0), weakref.ref(x)
    del x
    assert gone() is None
    y.backward()


@pytest.mark.usefixtures("_no_garbage_collector")
def test_backward_needs_no_more_memory_than_forward_left():
    """A chain that keeps 40 MB: on the way back each megabyte goes before the next gradient comes."""
    x = Tensor(np.ones(MB // 8), requires_grad=True)
    tracemalloc.start()
    try:
        y = x
        for _ in range(40):
            y = ops.mul(y, y)
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        y.backward(np.ones(MB // 8))
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept > 39 * MB
    assert peak < kept + 5 * MB
    assert left < 4 * MB  # y, x.grad and dust


def test_a_long_chain_needs_no_recursion():
    x = Tensor(np.ones(1), requires_grad=True)
    y = x
    for _ in range(100_000):
        y = ops.add(y, 1.0)
    y.backward()
    assert x.grad.tolist() == [1.0]
    assert y.item() == 100_001


def test_a_long_chain_that_is_dropped_needs_no_recursion_either():
    y = Tensor(np.ones(1), requires_grad=True)
    for _ in range(100_000):
        y = ops.add(y, 1.0)
    del y
