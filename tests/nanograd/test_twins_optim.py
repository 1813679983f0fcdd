"""AdamW, SGD, Lion and the gradient's norm: the compiled passes against the formulas."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanograd import backend
from nanograd.kernels.cpu import optim as kernels
from nanograd.nn import Module, Parameter
from nanograd.optim import (
    SGD,
    AdamW,
    FlatParameters,
    Lion,
    NonFiniteGradientError,
    clip_grad_norm,
    clip_scale,
    grad_norm,
)
from nanograd.optim import compiled as compiled_module
from nanograd.optim.compiled import compiled

pytestmark = pytest.mark.usefixtures("twins")

every = pytest.mark.parametrize


class Weights(Module):
    """A matrix that decays and a bias that does not; odd sizes, so that the bias begins in the middle of a vector."""

    def __init__(self, shape: tuple[int, int], bias: int, dtype: type = np.float32) -> None:
        rng = np.random.default_rng(0)
        self.weight = Parameter(rng.standard_normal(shape).astype(dtype))
        self.bias = Parameter(rng.standard_normal(bias).astype(dtype))


@pytest.fixture(autouse=True)
def _kernels_for_few_parameters_too(monkeypatch):
    monkeypatch.setattr(compiled_module, "SMALLEST", 1)


def train(shape, bias, *, make=AdamW, steps=3, dtype=np.float32, scale=1.0, zero_grad=True, **options):
    """The state after some updates with gradients of very different sizes."""
    flat = FlatParameters(Weights(shape, bias, dtype))
    optimizer, rng = make(flat, **options), np.random.default_rng(1)
    for step in range(steps):
        flat.gradients[:] = rng.standard_normal(len(flat.gradients)) * 10.0 ** rng.integers(-9, 3, len(flat.gradients))
        optimizer.step(10.0 ** (-1 - step), scale=scale, zero_grad=zero_grad)
    return (
        flat.parameters,
        flat.gradients,
        *(array for name, array in optimizer.state_dict().items() if name != "steps"),
    )


KINDS = [
    (AdamW, {"weight_decay": 0.1, "betas": (0.9, 0.95)}),
    (AdamW, {"weight_decay": 0.0, "betas": (0.0, 0.999)}),
    (AdamW, {"betas": (0.9, 0.5)}),  # steps of order 1 in units of lr
    (AdamW, {"betas": (0.0, 0.0)}),
    (SGD, {"weight_decay": 0.1}),
    (SGD, {"momentum": 0.5, "nesterov": True}),
    (SGD, {"momentum": 0.0}),
    (Lion, {"weight_decay": 0.1}),
    (Lion, {"weight_decay": 0.0, "betas": (0.0, 0.5)}),
]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 70),
    bias=st.integers(1, 90),
    steps=st.integers(1, 5),
    scale=st.sampled_from([1.0, 0.1, 1e-6]),
    zero_grad=st.booleans(),
    kind=st.sampled_from(KINDS),
)
def test_one_pass_is_the_formula(rows, columns, bias, steps, scale, zero_grad, kind):
    make, options = kind
    options = {"make": make, "steps": steps, "scale": scale, "zero_grad": zero_grad, **options}
    with backend.formulas_only():
        expected = train((rows, columns), bias, **options)
    agree(train((rows, columns), bias, **options), expected)


def agree(found, formula):
    """Bit for bit: both round after each multiplication and each addition."""
    for array, expected in zip(found, formula, strict=True):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected)


@every("make", [AdamW, SGD, Lion])
def test_the_kernel_is_what_ran(make, monkeypatch):
    calls = []
    monkeypatch.setattr(kernels, make.__name__.lower(), lambda *_, **settings: calls.append(settings["decay"]))
    train((3, 4), 5, make=make, steps=1, weight_decay=0.2)
    assert calls == [0.2, 0.0]


@every("make", [AdamW, SGD, Lion])
def test_many_parameters_on_all_threads(make):
    with backend.formulas_only():
        expected = train((301, 333), 77, make=make)
    agree(train((301, 333), 77, make=make), expected)


@every("use_kernels", [True, False])
def test_scaling_inside_the_step_is_clipping_before_it(use_kernels):
    def update(inside: bool):
        flat = FlatParameters(Weights((20, 30), 7))
        flat.gradients[:] = np.random.default_rng(3).standard_normal(len(flat.gradients))
        optimizer = AdamW(flat)
        if inside:
            norm, scale = clip_scale(flat, 1.0)
            optimizer.step(1e-2, scale=scale, zero_grad=True)
            assert not flat.gradients.any()
        else:
            norm = clip_grad_norm(flat, 1.0)
            optimizer.step(1e-2)
            assert math.isclose(grad_norm(flat), 1.0, rel_tol=1e-6)
        return norm, flat.parameters

    def both():
        (norm_1, one), (norm_2, other) = update(True), update(False)
        assert norm_1 == norm_2
        np.testing.assert_allclose(one, other, rtol=1e-6)

    if use_kernels:
        both()
    else:
        with backend.formulas_only():
            both()


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 5000), exponent=st.integers(-15, 15))
def test_norm_is_exact_to_float64(n, exponent):
    flat = FlatParameters(Weights((n, 3), 5))
    flat.gradients[:] = np.random.default_rng(n).standard_normal(len(flat.gradients)) * 10.0**exponent
    assert math.isclose(grad_norm(flat), math.sqrt(math.fsum(flat.gradients.astype(np.float64) ** 2)), rel_tol=1e-12)


@every("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_refused(bad):
    flat = FlatParameters(Weights((20, 30), 7))
    flat.gradients[607 - 1] = bad
    with pytest.raises(NonFiniteGradientError):
        clip_scale(flat, 1.0)


def test_squares_that_no_float32_holds():
    flat = FlatParameters(Weights((20, 30), 7))
    flat.gradients[:] = 1e30
    assert math.isclose(grad_norm(flat), 1e30 * math.sqrt(607), rel_tol=1e-6)


def test_the_formula_keeps_what_the_kernels_are_not_for(monkeypatch):
    x = np.zeros(10, np.float32)
    assert compiled(x) is kernels
    assert compiled(x.astype(np.float64)) is None
    assert compiled(x[::2]) is None
    with backend.formulas_only():
        assert compiled(x) is None
    monkeypatch.setattr(compiled_module, "SMALLEST", 11)
    assert compiled(x) is None
    assert all(part.dtype == np.float64 for part in train((3, 4), 5, dtype=np.float64))


def check_thread_counts():
    """Run by a process of its own, which may have four threads."""
    from numba import set_num_threads

    results = []
    for threads in (1, 2, 4):
        set_num_threads(threads)
        states = [train((301, 333), 77, make=make) for make in (AdamW, SGD, Lion)]
        results.append((*(x for state in states for x in state), kernels.sum_of_squares(states[0][2].reshape(-1))))
    for result in results:
        for found, one in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(found, one)
    print("same")


def test_the_number_of_threads_does_not_matter():
    code = "from tests.nanograd import test_twins_optim as t; t.compiled_module.SMALLEST = 1; t.check_thread_counts()"
    environment = os.environ | {"NUMBA_NUM_THREADS": "4", "OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert run.stdout.strip() == "same", run.stderr
