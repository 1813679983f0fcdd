"""What a tensor promises its owner: dtypes that stay, errors that name the op, copies of its own."""

import copy
import pickle

import numpy as np
import pytest

from nanograd import ops
from nanograd.primitive import primitive
from nanograd.tensor import Tensor

F32, F64 = np.float32, np.float64


def leaf(*shape, dtype=F32):
    return Tensor(np.ones(shape, dtype), requires_grad=True)


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
        assert w.grad.dtype == np.promote_types(dtype, F32)  # a leaf's gradient is a sum
    assert ops.maximum(w, number).dtype == ops.where(w > 0, w, number).dtype == dtype


def test_integers_among_themselves_become_float32():
    ids = Tensor([1, 2])
    for y in (ids * 0.5, ids / ids, ops.exp(ids), ops.where(ids > 1, 1.0, 0.0), ops.exp(np.int8([1]))):
        assert y.dtype == F32
    assert (ids + 1).dtype == np.int64
    assert ids.astype(F64).dtype == F64


@pytest.mark.parametrize("op", [ops.add, ops.mul, ops.div, ops.maximum, ops.power, lambda x, n: ops.where(n > 1, x, n)])
def test_integers_do_not_widen_what_they_meet(op):
    """NumPy: float32 · int64 is float64. The gradient of a float32 leaf would be float64 too."""
    with pytest.raises(TypeError, match=r"float32 \(3,\) and int64 \(3,\) would give float64; cast one with astype"):
        op(leaf(3), np.array([1, 2, 3]))
    assert op(leaf(3), np.array([1, 2, 3], np.uint8)).dtype == F32  # these fit
    assert op(leaf(3, dtype=F64), np.array([1, 2, 3])).dtype == F64


def test_only_floating_results_can_carry_a_gradient():
    assert not ops.cast(leaf(2), dtype=np.int64).requires_grad
    assert ops.cast(leaf(2), dtype=F64).requires_grad


def test_the_gradient_of_a_broadcast_float16_is_summed_in_more():
    bias = leaf(2, dtype=np.float16)
    (Tensor(np.ones((8192, 2), np.float16)) + bias).backward(np.ones((8192, 2), np.float16))
    assert bias.grad.dtype == np.float32  # a leaf's gradient is a sum
    assert bias.grad.tolist() == [8192.0, 8192.0]


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
