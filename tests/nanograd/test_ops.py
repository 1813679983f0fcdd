"""What every operation promises, over the whole table. To test a new one, add its Case to tests/cases.py."""

from typing import Any

import numpy as np
import pytest

from nanograd import backend, ops
from nanograd.precision import float_type
from nanograd.primitive import Primitive
from nanograd.tensor import Tensor
from nanograd.testing import Case, gradient_check, is_floating, random_like, value_and_gradients
from tests.cases import CASES

every_op = pytest.mark.parametrize("case", CASES, ids=repr)
PRIMITIVE = [case for case in CASES if isinstance(case.op, Primitive)]  # the others are made of several
STEPS = [case for case in PRIMITIVE if case.op.formula.backward is None]  # comparisons and the like: no gradient
SMOOTH = [case for case in CASES if case not in STEPS]
every_smooth_op = pytest.mark.parametrize("case", SMOOTH, ids=repr)


def run(case: Case, arrays: list[Any], dy: Any = None) -> list[Any]:
    """The value, and one gradient for each input that has one."""
    y, gradients = value_and_gradients(lambda *inputs: case.call(inputs), arrays, dy)
    return [y, *(gradients if case in SMOOTH else [])]


def assert_same(found: list[Any], expected: list[Any], **tolerance: float) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def test_every_operation_has_a_case():
    public = {name for name, op in vars(ops).items() if isinstance(op, Primitive)} - {"unsqueeze"} | {"split"}
    assert ops.unsqueeze is ops.expand_dims
    assert public == {case.name for case in CASES}


@every_smooth_op
def test_backward_is_the_slope_of_forward(case):
    gradient_check(lambda *inputs: case.call(inputs), case.draw())


@pytest.mark.parametrize("case", [case for case in SMOOTH if case.op is not ops.cast], ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_type_of_the_inputs_is_kept(case, dtype):
    assert {a.dtype for a in run(case, case.draw(dtype=dtype))} == {np.dtype(dtype)}


LOSSES = {"cross_entropy", "linear_cross_entropy"}
NARROW = {"bf16": 2**-8, "fp16": 2**-11}  # and how far a number may be from the next


@pytest.mark.parametrize("case", [case for case in CASES if case.op is not ops.cast], ids=repr)
@pytest.mark.parametrize("precision", NARROW)
def test_16_bits_stay_16_bits_and_are_as_good_as_they_can_be(case, precision):
    """Losses and the gradients of leaves are float32. The same inputs in float64 say what is right; the worst error,
    2.3 of the steps from 1 to the next number, is that of an attention whose weights are nearly a one."""
    arrays = case.draw(dtype=float_type(precision))
    y, *gradients = run(case, arrays)
    exact = run(
        case, [a.astype(np.float64) if is_floating(a) else a for a in arrays], random_like(y).astype(np.float64)
    )
    if case in SMOOTH:
        assert y.dtype == (np.float32 if case.name in LOSSES else float_type(precision))
    assert {a.dtype for a in gradients} <= {np.dtype(np.float32)}
    for found, wanted in zip([y, *gradients], exact, strict=True):
        largest = np.abs(wanted).max(initial=0.0)
        np.testing.assert_allclose(found.astype(np.float64), wanted, rtol=0, atol=4 * NARROW[precision] * largest)


@pytest.mark.parametrize("precision", NARROW)
def test_what_backward_keeps_has_16_bits_too(precision):
    """But for statistics; y = exp x keeps y, x W keeps x and W: the arrays themselves, not float32 copies."""
    x, w = (np.ones((3, 4), float_type(precision)) for _ in range(2))
    for op, arrays in ((ops.exp, [x]), (ops.linear, [x, w])):
        y, saved, _ = op.fastest(np, arrays, {})
        assert all(any(kept is known for known in (y, *arrays)) for kept in saved)


@every_op
def test_float32_is_as_good_as_it_can_be(case):
    assert_same(run(case, case.draw(dtype=np.float32)), run(case, case.draw()), rtol=1e-4, atol=1e-5)


@every_op
def test_inputs_output_and_dy_are_never_written(case):
    """Arrays that are set read-only raise when a formula writes into them."""
    arrays = case.draw()
    expected = run(case, arrays)
    for a in arrays:
        if isinstance(a, np.ndarray):
            a.setflags(write=False)
    y = case.call([Tensor(a, requires_grad=True) if is_floating(a) else a for a in arrays])
    dy = random_like(y.data)
    dy.setflags(write=False)
    y.data.setflags(write=False)
    if y.requires_grad:
        y.backward(dy)
    assert_same(run(case, arrays, dy), expected, rtol=0)


@pytest.mark.parametrize("case", [case for case in PRIMITIVE if case in SMOOTH], ids=repr)
def test_backward_leaves_what_was_saved_as_it_was(case):
    arrays, settings, rule = case.draw(), case.settings, case.op.formula
    y, saved = rule.forward(np, *arrays, **settings)
    dy, needs = random_like(np.asarray(y)), tuple(map(is_floating, arrays))
    once, twice = (rule.backward(np, dy, *saved, needs=needs, **settings) for _ in range(2))
    for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (once, twice)), strict=True):
        np.testing.assert_array_equal(a, b)


@every_smooth_op
def test_one_input_alone_gets_the_same_gradient(case):
    arrays = case.draw()
    y, *together = run(case, arrays)
    for i, expected in zip((i for i, a in enumerate(arrays) if is_floating(a)), together, strict=True):
        inputs = [Tensor(a, requires_grad=(i == j)) if is_floating(a) else a for j, a in enumerate(arrays)]
        case.call(inputs).backward(random_like(y))
        np.testing.assert_array_equal(inputs[i].grad, expected)


@every_op
def test_large_inputs_stay_finite(case):
    """Numbers that a float32 holds with ease go in; NumPy raises at the first overflow or nan on the way."""
    if case.overflows:
        pytest.skip(case.overflows)
    arrays = [50 * a if is_floating(a) else a for a in case.draw(dtype=np.float32)]
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert all(np.isfinite(a).all() for a in run(case, arrays))


LAYOUTS = {
    "every second number": lambda a: np.repeat(a[..., None], 2, axis=-1)[..., 0],
    "columns first": lambda a: np.array(a, order="F"),
    "backwards": lambda a: np.flip(np.flip(a).copy()) if a.ndim else a,
}


@every_op
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_does_not_matter(case, layout):
    arrays, rearranged = case.draw(), LAYOUTS[layout]
    expected = run(case, arrays)
    arrays = [rearranged(a) if isinstance(a, np.ndarray) else a for a in arrays]
    assert_same(run(case, arrays, rearranged(random_like(expected[0]))), expected, rtol=1e-10, atol=1e-12)


@every_smooth_op
def test_a_gradient_that_is_one_number_repeated(case):
    """What the backward of a sum hands on: a read-only view in which all elements share one place."""
    arrays = case.draw()
    dy = np.broadcast_to(np.float64(0.7), run(case, arrays)[0].shape)
    assert_same(run(case, arrays, dy), run(case, arrays, dy.copy()), rtol=1e-10, atol=1e-12)


# What an operation may keep for its backward beside its inputs and its output: how many numbers, at most.
KEEPS = {
    "gelu": lambda case, x: 0 if case.settings else x.size,
    "mlp": lambda case, x, up, *_: x.size // x.shape[-1] * len(up),
    "layer_norm": lambda case, x, *_: x.size + x.size // x.shape[-1],
    "rms_norm": lambda case, x, *_: x.size + x.size // x.shape[-1],
    "dyt": lambda case, x, *_: x.size,
    "derf": lambda case, x, *_: x.size,
    "packed_head_norm": lambda case, qkv: 2 * case.settings["n_heads"] * qkv.size // qkv.shape[-1],
    "attention": lambda case, q, k, *_: q.size // q.shape[-1] * k.shape[-2],
    "packed_attention": lambda case, x, *_: x.shape[0] * case.settings["n_heads"] * x.shape[1] ** 2,
    "cross_entropy": lambda case, logits, targets: 4 * targets.size,
    "var": lambda case, x: x.size,
}


@pytest.mark.parametrize("case", PRIMITIVE, ids=repr)
def test_nothing_more_than_needed_is_kept(case):
    arrays = case.draw()
    y, saved = case.op.formula.forward(np, *arrays, **case.settings)
    known = [a for a in (*arrays, y) if isinstance(a, np.ndarray)]
    kept = [a for a in saved if isinstance(a, np.ndarray) and not any(np.may_share_memory(a, b) for b in known)]
    allowed = KEEPS.get(case.name, lambda *_: 0)(case, *arrays)
    assert sum(a.size for a in kept) <= allowed, [a.shape for a in kept]


@pytest.mark.cuda
@every_op
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gpu_agrees_with_the_cpu(case, dtype, device):
    arrays = case.draw(dtype=dtype)
    expected = run(case, arrays)

    def move(a: Any) -> Any:
        return backend.to_device(a, device) if isinstance(a, np.ndarray) else a

    y, gradients = value_and_gradients(
        lambda *inputs: case.call(inputs, move), [move(a) for a in arrays], move(random_like(expected[0]))
    )
    found = [y, *(gradients if case in SMOOTH else [])]
    assert all(backend.array_module(a) is not np for a in found)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype is np.float32 else {"rtol": 1e-9, "atol": 1e-11}
    assert_same([backend.to_host(a) for a in found], expected, **tolerance)
