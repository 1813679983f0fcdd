"""What a tensor promises its owner: leaf rules as in PyTorch, no_grad, dtypes that stay, errors that name the op."""

import copy
import pickle
import threading

import numpy as np
import pytest

from nanograd import ops
from nanograd.primitive import primitive
from nanograd.tensor import Tensor, is_recording, no_grad

F32, F64 = np.float32, np.float64


def leaf(*shape, dtype=F32):
    return Tensor(np.ones(shape, dtype), requires_grad=True)


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


# What becomes an array, and of which type


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.5, F32),
        ([1.0, 2.0], F32),
        (F64(1.5), F32),
        ([F64(1.5)], F32),
        (3, np.int64),
        (True, np.bool_),
        ([[1, 2]], np.int64),
        (np.ones(2), F64),
        (np.ones(2, np.float16), np.float16),
        (np.ones((), F64), F64),
    ],
)
def test_python_numbers_become_float32_and_arrays_stay(data, dtype):
    assert Tensor(data).dtype == dtype


def test_an_array_is_taken_as_it_is():
    a = np.ones(3, F32)
    assert Tensor(a).data is a
    assert Tensor(a).numpy() is a


@pytest.mark.parametrize("data", ["text", None, [None], {"a": 1}, [1 + 2j]])
def test_what_holds_no_numbers_is_refused(data):
    with pytest.raises(TypeError, match="is no array of numbers"):
        Tensor(data)


def test_a_tensor_of_a_tensor_is_refused():
    with pytest.raises(TypeError, match=r"use tensor\.detach\(\)"):
        Tensor(Tensor([1.0]))


def test_a_memory_map_is_an_array_like_any_other(tmp_path):
    np.save(tmp_path / "ids.npy", np.array([2, 0]))
    ids = np.load(tmp_path / "ids.npy", mmap_mode="r")
    table = leaf(3, 2)
    for rows in (ops.embedding(table, ids), ops.embedding(table, Tensor(ids)), table[ids]):
        assert rows.shape == (2, 2)
    assert type(Tensor(ids).data) is np.ndarray


NUMBERS = [2, 2.0, True, F32(2), F64(2), np.int64(2), np.float16(2), np.bool_(True)]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("dtype", [F32, F64, np.float16])
def test_a_number_never_changes_the_dtype(number, dtype):
    w = leaf(2, 3, dtype=dtype)
    for y in (w + number, number + w, w - number, number - w, w * number, number * w, w / number, number / w):
        assert y.dtype == dtype
        w.grad = None
        y.backward(np.ones((2, 3), dtype))
        assert w.grad.dtype == dtype
    assert ops.maximum(w, number).dtype == ops.where(w > 0, w, number).dtype == dtype


def test_zero_dimensional_results_keep_their_dtype():
    for dtype in (F32, F64):
        assert leaf(2, dtype=dtype).sum().dtype == dtype
        assert (leaf(dtype=dtype) * leaf(dtype=dtype)).dtype == dtype
        assert type((leaf(dtype=dtype) * 2.0).data) is np.ndarray


# Errors at the door of an op


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (lambda: leaf(2, 3) + leaf(3, 2), ValueError, r"add: .*float32 \(2, 3\), float32 \(3, 2\)"),
        (lambda: leaf(2, 3) @ leaf(2, 3), ValueError, r"matmul: .*float32 \(2, 3\), float32 \(2, 3\)"),
        (lambda: leaf(2, 3) * leaf(2, 3, dtype=F64), TypeError, r"mul: float32 \(2, 3\) meets float64 \(2, 3\); cast"),
        (lambda: leaf(2, 3) * np.ones((2, 3)), TypeError, r"mul: float32 \(2, 3\) meets float64 \(2, 3\)"),
        (lambda: leaf(2) * leaf(2, dtype=np.float16), TypeError, r"mul: float32 \(2,\) meets float16 \(2,\)"),
        (lambda: ops.where(leaf(2) > 0, leaf(2), leaf(2, dtype=F64)), TypeError, r"where: float32 \(2,\) meets"),
        (lambda: leaf(2, 3).reshape(4), ValueError, r"reshape: .*float32 \(2, 3\)"),
        (lambda: leaf(2, 3)[5], IndexError, r"getitem: .*float32 \(2, 3\)"),
        (lambda: leaf(2, 3).sum(axis=2), (IndexError, ValueError), r"sum: .*float32 \(2, 3\)"),
        (lambda: ops.add(leaf(2), [1.0, 2.0]), TypeError, "add: operand 1 is a list; give an array or a Tensor"),
        (lambda: leaf(2) + "text", TypeError, "add: operand 1 is a str"),
        (lambda: ops.add(leaf(2), None), TypeError, r"add: .*float32 \(2,\), None"),
        (lambda: ops.concatenate(leaf(2, 3), leaf(3, 2), axis=0), ValueError, r"concatenate: .*\(2, 3\), .*\(3, 2\)"),
    ],
)
def test_an_error_names_the_op_and_its_operands(attempt, error, message):
    with pytest.raises(error, match=message):
        attempt()


def test_no_number_is_lost_in_the_error_of_a_subclass():
    """NumPy's AxisError is an IndexError and a ValueError: it may leave as either, but as one that tells the shape."""
    with pytest.raises((IndexError, ValueError), match=r"float32 \(2, 3\)"):
        leaf(2, 3).squeeze(axis=7)


def test_ops_take_plain_arrays_and_numbers():
    a = np.ones(3, F32)
    assert not ops.add(a, a).requires_grad
    assert ops.add(a, a).dtype == F32
    assert ops.add(1.0, 2.0).item() == 3.0
    w = leaf(3)
    for y in (a + w, a * w, a - w, a / w, a @ w):
        assert isinstance(y, Tensor)
        assert y.requires_grad


def test_a_primitive_keeps_the_name_and_signature_of_its_formula():
    assert ops.softmax.__name__ == "softmax"
    assert next(iter(ops.softmax.__signature__.parameters)) != "xp"
    assert ops.softmax.__doc__


def test_a_setting_that_does_not_exist_is_reported_by_name():
    with pytest.raises(TypeError, match=r"softmax: .*axes"):
        ops.softmax(leaf(2), axes=0)


# Numbers in, numbers out


def test_one_number_can_be_read_several_ways():
    x = Tensor(np.array([[2.5]], F32))
    assert x.item() == 2.5
    assert float(Tensor(2.5)) == 2.5
    assert bool(Tensor(True))
    assert len(Tensor([[1.0], [2.0]])) == 2
    assert repr(leaf(1)) == "Tensor(array([1.], dtype=float32), requires_grad=True)"
    with pytest.raises(ValueError, match="size 1"):
        leaf(2).item()


def test_numpy_reads_a_tensor_as_an_array():
    x = leaf(2, 3)
    assert np.asarray(x) is x.data
    assert np.asarray(x, dtype=F64).dtype == F64
    np.testing.assert_array_equal(x, np.ones((2, 3)))


def test_changing_data_in_place_is_seen_by_the_next_forward():
    w = leaf(2)
    w.data -= 0.5
    assert (w * 2.0).numpy().tolist() == [1.0, 1.0]
    (w * w).backward(np.ones(2, F32))
    assert w.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), copy.copy])
def test_a_copy_collects_its_own_gradients(duplicate):
    w = leaf(2)
    (w * 7.0).sum().backward()
    twin = duplicate(w)
    assert twin.requires_grad
    twin.grad = None
    (twin * 2.0).sum().backward()
    assert twin.grad.tolist() == [2.0, 2.0]
    assert w.grad.tolist() == [7.0, 7.0]
    assert not duplicate(Tensor([1.0])).requires_grad


def test_a_computed_tensor_is_not_copied_with_its_graph():
    with pytest.raises(RuntimeError, match="only leaves can be copied"):
        copy.deepcopy(leaf(2) * 2.0)


def test_a_primitive_without_backward_passes_no_gradient():
    @primitive
    def step(xp, x):
        return (x > 0).astype(x.dtype), ()

    assert not step(leaf(2)).requires_grad
