"""linear, matmul and mlp on the emulated device, beside their formulas in float64."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd import ops
from nanograd.kernels.cuda import cublaslt, matrix
from nanograd.kernels.cuda import mlp as mlp_twin
from nanograd.kernels.cuda.cublaslt_abi import Epilogue
from nanograd.ops.mlp import ACTIVATIONS
from nanograd.tensor import ADDED, PASSED_ON, Tensor
from tests.kernels_cuda.emulated import (
    FLOATS,
    assert_close,
    bfloat16,
    by_formula,
    every_float,
    few,
    numbers,
    on_device,
    one_schedule,
    wide,
)

FUSED = frozenset([Epilogue.BIAS, Epilogue.BGRADB, Epilogue.GELU_AUX, Epilogue.GELU_AUX_BIAS, Epilogue.DGELU])
with_and_without_epilogues = pytest.mark.parametrize("without", [frozenset(), FUSED], ids=["epilogues", "kernels"])


@pytest.fixture
def library(device):
    """Chooses which epilogues cuBLASLt has kernels for."""

    def use(without: frozenset[Epilogue]) -> Any:
        from tests.fake_cublaslt import FakeCublasLt

        fake = FakeCublasLt(without=without)
        cublaslt.register(device, lambda: fake)
        return fake

    return use


def run(device: Any, op: Any, arrays: list[Any], dy: Any, into: Any = None, **options: Any) -> tuple[Any, Any]:
    """y and all gradients by the CUDA twin."""
    there = [None if x is None else on_device(x) for x in arrays]
    y, saved, rule = op.fastest(device, there, options)
    assert rule is not op.formula
    needs = tuple(x is not None for x in arrays)
    into = into or (None,) * len(arrays)
    return y, rule.backward(device, on_device(dy), *saved, needs=needs, into=into, **options)


def expect(op: Any, arrays: list[Any], dy: Any, **options: Any) -> tuple[Any, Any]:
    return by_formula(op, arrays, dy, needs=tuple(x is not None for x in arrays), **options)


def compare(found: Any, expected: Any, dtype: Any, *, ulps: float = 4) -> None:
    """Activations have the type of the inputs, gradients of parameters are float32."""
    floor = max(1.0, float(np.abs(expected).max(initial=0)))
    assert found.dtype in (dtype, np.float32)
    unit = float(np.finfo(np.float32).eps) if dtype == np.float32 else 2.0 ** -(7 if dtype == bfloat16 else 10)
    np.testing.assert_allclose(wide(found.held), expected, rtol=ulps * unit, atol=ulps * unit * floor)


def linear_case(dtype: Any, shape: tuple[int, ...], d_out: int, present: tuple[bool, bool]) -> tuple[list[Any], Any]:
    C, y = shape[-1], (*shape[:-1], d_out)
    bias, residual = numbers(d_out, dtype, 2) if present[0] else None, numbers(y, dtype, 3) if present[1] else None
    return [numbers(shape, dtype), numbers((d_out, C), dtype, 1), bias, residual], numbers(y, dtype, 4)


@with_and_without_epilogues
@every_float
@given(
    shape=st.sampled_from([(5, 8), (2, 3, 16), (1, 24), (9, 7)]),
    d_out=st.sampled_from([1, 8, 40, 33]),
    present=st.tuples(st.booleans(), st.booleans()),
)
@few(3)
def test_linear(library, device, without, dtype, shape, d_out, present):
    library(without)
    arrays, dy = linear_case(dtype, shape, d_out, present)
    y, gradients = run(device, ops.linear, arrays, dy)
    right, (dx, dweight, dbias, _) = expect(ops.linear, arrays, dy)
    compare(y, right, dtype)
    compare(gradients[0], dx, dtype)
    compare(gradients[1], dweight, np.float32)
    assert gradients[1].dtype == np.float32
    if present[0]:
        compare(gradients[2], dbias, np.float32)
        assert gradients[2].dtype == np.float32
    assert gradients[3] is PASSED_ON


@with_and_without_epilogues
@every_float
def test_gradients_are_added_to_what_is_there(library, device, without, dtype):
    """Those of parameters in float32, that of x in its own type."""
    library(without)
    arrays, dy = linear_case(dtype, (3, 4, 8), 16, (True, False))
    before = [numbers((3, 4, 8), dtype, 5), numbers((16, 8), np.float32, 6), numbers(16, np.float32, 7)]
    into = (*map(on_device, before), None)
    _, gradients = run(device, ops.linear, arrays, dy, into)
    assert gradients[:3] == (ADDED, ADDED, ADDED)
    _, expected = expect(ops.linear, arrays, dy)
    for found, was, change in zip(into, before, expected, strict=False):
        compare(found, wide(was) + change, found.dtype)


def test_a_frozen_weight_gets_no_gradient_but_its_bias_does(library, device):
    arrays, dy = linear_case(np.float32, (5, 8), 16, (True, False))
    _, saved, rule = ops.linear.fastest(device, list(map(on_device, arrays[:3])), {})
    needs, into = (False, False, True), (None, None, None)
    dx, dweight, dbias = rule.backward(device, on_device(dy), *saved, needs=needs, into=into)
    assert dx is None
    assert dweight is None
    compare(dbias, wide(dy).sum(axis=0), np.float32)


@every_float
@given(shape=st.tuples(st.sampled_from([1, 7, 129, 700]), st.sampled_from([1, 8, 33, 264, 520])))
@few(4)
def test_sums_over_rows_of_any_number_and_length(device, dtype, shape):
    dy, before = numbers(shape, dtype), numbers(shape[1], np.float32, 1)
    into = on_device(before)
    assert_close(matrix.column_sums(device, on_device(dy), None), wide(dy).sum(axis=0), floor=shape[0])
    assert matrix.column_sums(device, on_device(dy), into) is ADDED
    assert_close(into, wide(dy).sum(axis=0) + wide(before), floor=shape[0])


def test_sums_of_rows_that_begin_anywhere(device):
    """Off the 16-byte grid, numbers are read one by one."""
    flat = numbers(1 + 40 * 16, np.float32)
    dy = on_device(flat)[1:].reshape(40, 16)
    assert_close(matrix.column_sums(device, dy, None), wide(flat[1:]).reshape(40, 16).sum(axis=0), floor=40)


SHAPES = [
    ((5, 8), (8, 3)),
    ((2, 3, 4, 8), (8, 5)),
    ((2, 3, 4, 8), (2, 3, 8, 5)),
    ((3, 4, 8), (2, 1, 8, 5)),
    ((2, 1, 4, 8), (3, 8, 5)),
    ((4, 8), (2, 8, 5)),
]


@one_schedule
@every_float
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_matmul(library, device, dtype, shapes):
    arrays = [numbers(shape, dtype, i) for i, shape in enumerate(shapes)]
    dy = numbers((arrays[0].astype(np.float32) @ arrays[1].astype(np.float32)).shape, dtype, 2)
    y, gradients = run(device, ops.matmul, arrays, dy)
    right, expected = expect(ops.matmul, arrays, dy)
    compare(y, right, dtype)
    for found, gradient in zip(gradients, expected, strict=True):
        compare(found, gradient, dtype)


@one_schedule
def test_matmul_takes_views_and_adds_to_gradients(library, device):
    """Queries and keys as they lie in a packed array; both gradients are there already."""
    packed = on_device(numbers((2, 5, 2, 3, 8), np.float32))
    query, key = packed.transpose(2, 0, 3, 1, 4)
    device.counts.clear()
    y, saved, rule = ops.matmul.fastest(device, [query, key.swapaxes(-1, -2)], {})
    assert device.counts["launch"] == 2  # one for each sequence
    np.testing.assert_allclose(y.held, query.held @ key.held.swapaxes(-1, -2), rtol=1e-5, atol=1e-5)
    into = tuple(on_device(np.ones(x.shape, np.float32)) for x in saved)
    dy = on_device(numbers(y.shape, np.float32, 1))
    assert rule.backward(device, dy, *saved, needs=(True, True), into=into) == (ADDED, ADDED)
    np.testing.assert_allclose(into[0].held, 1 + dy.held @ key.held, rtol=1e-5, atol=1e-4)


# The MLP


def mlp_case(dtype: Any, activation: str, biases: bool, residual: bool) -> tuple[list[Any], Any]:
    C, F, shape = 8, 16, (2, 3, 8)
    halves = 2 if activation == "swiglu" else 1
    up, down = numbers((halves * F, C), dtype, 1) / 4, numbers((C, F), dtype, 2) / 4
    up_bias, down_bias = (numbers(halves * F, dtype, 3), numbers(C, dtype, 4)) if biases else (None, None)
    arrays = [numbers(shape, dtype), up.astype(dtype), up_bias, down.astype(dtype), down_bias]
    return [*arrays, numbers(shape, dtype, 5) if residual else None], numbers(shape, dtype, 6)


@with_and_without_epilogues
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("biases", [False, True])
def test_mlp(library, device, without, activation, biases):
    library(without)
    for dtype in FLOATS:
        arrays, dy = mlp_case(dtype, activation, biases, residual=biases)
        y, gradients = run(device, ops.mlp, arrays, dy, activation=activation)
        right, expected = expect(ops.mlp, arrays, dy, activation=activation)
        compare(y, right, dtype, ulps=8)
        for found, gradient in zip(gradients[:5], expected[:5], strict=True):
            assert (found is None) == (gradient is None)
            if found is not None:
                compare(found, gradient, dtype, ulps=16)


@one_schedule
def test_gelu_by_its_tanh_formula_costs_no_pass_of_its_own(library, device):
    fake = library(frozenset())
    arrays, dy = mlp_case(bfloat16, "gelu-tanh", biases=True, residual=True)
    into = tuple(on_device(np.zeros(x.shape, np.float32)) for x in arrays[:5])
    there = [on_device(x) for x in arrays]
    run_once = lambda: mlp_step(device, there, on_device(dy), into)  # noqa: E731
    run_once()
    del fake.products[:]
    device.counts.clear()
    run_once()
    kinds = [product.EPILOGUE for product in fake.products]
    forth = [Epilogue.GELU_AUX_BIAS, Epilogue.BIAS]
    assert kinds == [*forth, Epilogue.DGELU, Epilogue.BGRADB, Epilogue.DEFAULT, Epilogue.BGRADB]
    assert device.counts["launch"] == len(kinds) + 2  # the two biases' sums are added to their gradients


def mlp_step(device: Any, arrays: list[Any], dy: Any, into: Any) -> None:
    _, saved, rule = ops.mlp.fastest(device, arrays, {"activation": "gelu-tanh"})
    answers = rule.backward(device, dy, *saved, needs=(True,) * 6, into=(None, *into[1:], None), activation="gelu-tanh")
    assert answers[1:] == (ADDED, ADDED, ADDED, ADDED, PASSED_ON)


def test_where_the_epilogue_was_not_measured_to_be_faster_a_kernel_does_it(library, device, monkeypatch):
    fake = library(frozenset())
    monkeypatch.setattr(device.cuda.Device, "compute_capability", "120")
    arrays, dy = mlp_case(np.float32, "gelu-tanh", biases=True, residual=False)
    run(device, ops.mlp, arrays, dy, activation="gelu-tanh")
    assert not {product.EPILOGUE for product in fake.products} & {Epilogue.GELU_AUX_BIAS, Epilogue.DGELU}
    assert set(mlp_twin.FUSES_GELU) >= {"80", "90"}


# What is left to the formulas


@one_schedule
def test_what_the_twins_leave_to_the_formulas(library, device):
    x, weight = numbers((3, 4), np.float64), numbers((2, 4), np.float64)
    for op, arrays in (
        (ops.linear, [x, weight]),
        (ops.linear, [x[:0].astype(np.float32), weight.astype(np.float32)]),
        (ops.matmul, [x, weight.T]),
        (ops.matmul, [x[0].astype(np.float32), weight.T.astype(np.float32)]),
    ):
        assert op.fastest(device, list(map(on_device, arrays)), {})[2] is op.formula


@one_schedule
def test_errors_are_the_formulas(library, device):
    x, weight = (on_device(numbers(shape, np.float32)) for shape in ((3, 4), (2, 5)))
    with pytest.raises(ValueError, match=r"linear: x \(…, in\) needs weight \(out, in\)"):
        ops.linear(Tensor(x), weight)
    with pytest.raises(ValueError, match="matmul: "):
        ops.matmul(Tensor(x), weight)
