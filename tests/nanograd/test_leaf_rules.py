"""Who has a gradient: leaves and the rest as PyTorch users expect, detach, and no_grad across blocks and threads."""

import threading

import numpy as np
import pytest

from nanograd import ops
from nanograd.tensor import Tensor, is_recording, no_grad

F32 = np.float32


def leaf(*shape):
    return Tensor(np.ones(shape, F32), requires_grad=True)


# The same little stories, told in both libraries


def _made_by_hand(make, no_grad):
    return [make(False), make(True)]


def _computed(make, no_grad):
    x, w = make(False), make(True)
    return [x + x, x * w, w + 1.0, 2.0 * w]


def _computed_without_recording(make, no_grad):
    w = make(True)
    with no_grad():
        return [w * 2.0, w]


def _walked(make, no_grad):
    w = make(True)
    y = w * 2.0
    y.sum().backward()
    return [w, y]


def _walked_and_kept(make, no_grad):
    w = make(True)
    y = w * 2.0
    y.retain_grad()
    (y * 3.0).sum().backward()
    return [w, y]


def _kept_on_a_leaf(make, no_grad):
    w = make(True)
    w.retain_grad()
    (w * 3.0).sum().backward()
    return [w]


def _detached(make, no_grad):
    w = make(True)
    y = w * 2.0
    d = y.detach()
    (d * w).sum().backward()
    return [w, d, y]


def _switched_off_and_on(make, no_grad):
    w = make(True)
    w.requires_grad = False
    y = w * 2.0
    w.requires_grad = True
    return [y, w, w * 2.0]


def _switched_on_after_no_grad(make, no_grad):
    w = make(True)
    with no_grad():
        y = w * 2.0
    y.requires_grad = True
    (y * y).sum().backward()
    return [w, y]


def _two_backwards(make, no_grad):
    w = make(True)
    (w * 2.0).sum().backward()
    (w * 5.0).sum().backward()
    return [w]


def _grad_dropped_between(make, no_grad):
    w = make(True)
    (w * 2.0).sum().backward()
    w.grad = None
    (w * 5.0).sum().backward()
    return [w]


def _backward_of_a_leaf(make, no_grad):
    w = make(True).sum().detach()
    w.requires_grad = True
    w.backward()
    return [w]


def _walked_while_not_recording(make, no_grad):
    w = make(True)
    y = (w * w).sum()
    with no_grad():
        y.backward()
    return [w, y]


def _data_replaced(make, no_grad):
    w = make(True)
    w.data = w.data * 3.0
    (w * w).sum().backward()
    return [w]


STORIES = [story for name, story in sorted(globals().items()) if name.startswith("_") and hasattr(story, "__code__")]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__.strip("_"))
def test_leaves_follow_pytorch(story):
    torch = pytest.importorskip("torch", reason="the yardstick for leaf rules")
    theirs = story(lambda wanted: torch.ones(2, 3, requires_grad=wanted), torch.no_grad)
    ours = story(lambda wanted: Tensor(np.ones((2, 3), F32), requires_grad=wanted), no_grad)
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.is_leaf == reference.is_leaf
        assert mine.requires_grad == reference.requires_grad
        grad = reference.grad if reference.is_leaf or reference.retains_grad else None
        assert (mine.grad is None) == (grad is None)
        if grad is not None:
            np.testing.assert_array_equal(mine.grad, grad.numpy())


def test_only_leaves_change_their_mind():
    y = leaf(2) * 2.0
    for wanted in (True, False):
        with pytest.raises(RuntimeError, match="only be changed on a leaf; use detach"):
            y.requires_grad = wanted


@pytest.mark.parametrize("data", [[1, 2], [True, False]])
def test_only_numbers_with_a_fraction_have_a_gradient(data):
    with pytest.raises(TypeError, match=r"only floating-point tensors can require a gradient, not (int64|bool)"):
        Tensor(data, requires_grad=True)


def test_backward_without_a_gradient_needs_one_element():
    with pytest.raises(RuntimeError, match=r"only one element has a default gradient, not shape \(2, 3\)"):
        (leaf(2, 3) * 2.0).backward()
    w = leaf(1, 1)
    (w * 2.0).backward()
    assert w.grad.tolist() == [[2.0]]


def test_backward_without_a_graph_says_why():
    with pytest.raises(RuntimeError, match="does not depend on any tensor that requires a gradient"):
        Tensor([1.0]).backward()
    with pytest.raises(RuntimeError, match="retain_grad: this tensor does not require a gradient"):
        Tensor([1.0]).retain_grad()


def test_a_retained_gradient_belongs_to_its_tensor_alone():
    w = leaf(2)
    y = w + 1.0
    y.retain_grad()
    (y + y).backward(np.ones(2, F32))
    y.grad *= 100
    assert w.grad.tolist() == [2.0, 2.0]


def test_detach_shares_numbers_and_forgets_history():
    y = leaf(2) * 2.0
    d = y.detach()
    assert d.data is y.data
    assert d.is_leaf
    assert not d.requires_grad


def test_comparisons_and_casts_to_integers_have_no_gradient():
    w = leaf(3)
    for y in (w > 0.5, w <= w, ops.equal(w, w), w.astype(np.int64), w.astype(bool)):
        assert not y.requires_grad
        assert y.dtype.kind in "bi"


# no_grad


def test_no_grad_nests_and_comes_back_after_an_error():
    w = leaf(2)
    with no_grad():
        with no_grad():
            assert not is_recording()
        assert not (w * 2.0).requires_grad
    assert (w * 2.0).requires_grad
    with pytest.raises(KeyError), no_grad():
        raise KeyError("as planned")
    assert is_recording()


def test_no_grad_decorates_a_function():
    @no_grad()
    def double(x):
        """Twice x."""
        return x * 2.0

    for _ in range(2):
        assert not double(leaf(2)).requires_grad
        assert is_recording()
    assert double.__doc__ == "Twice x."


def test_each_thread_records_for_itself():
    inside, go_on = threading.Event(), threading.Event()
    seen = {}

    def other():
        seen["new thread"] = is_recording()
        with no_grad():
            inside.set()
            go_on.wait(10)
            seen["in its own block"] = is_recording()

    with no_grad():
        thread = threading.Thread(target=other)
        thread.start()
        inside.wait(10)
    seen["here, while the other is in its block"] = is_recording()
    go_on.set()
    thread.join()
    assert seen == {"new thread": True, "here, while the other is in its block": True, "in its own block": False}
