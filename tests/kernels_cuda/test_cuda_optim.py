"""The optimizers' kernels on the emulated device, beside the formulas in nanograd/optim and nanograd/precision.py."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd import optim as optimizers
from nanograd.kernels.cuda import optim
from nanograd.kernels.cuda.optim import Step
from nanograd.nn import Linear
from nanograd.optim import FlatParameters
from nanograd.precision import round_into, rounding_key
from tests.kernels_cuda.emulated import bfloat16, few, numbers, on_device

BETAS, EPS, LR, DECAY, SCALE = (0.9, 0.999), 1e-8, 1e-2, 0.1, 0.7
kernels = pytest.mark.parametrize("name", ["adamw", "sgd", "nesterov", "plain", "lion", "muon"])
narrow_types = pytest.mark.parametrize("narrow", [None, bfloat16, np.dtype(np.float16)], ids=str)


def run(name, w, g, m, v, step):
    """One step of the optimizer `name`, in place, on device arrays or by the float64 formulas on NumPy's."""
    if not isinstance(w, np.ndarray):
        settings = {"adamw": {"betas": BETAS, "eps": EPS, "rises": tuple(1 / (1 - b**3) for b in BETAS)}}
        if name == "muon":
            direction = on_device(np.zeros(w.shape, np.float32))
            optim.muon_momentum(direction, g, m, momentum=0.95, nesterov=True, step=step)
            optim.muon_apply(w, direction, size=0.2, step=step)
        elif name in ("adamw", "lion"):
            moments = (m, v) if name == "adamw" else (m,)
            getattr(optim, name)(w, g, *moments, **settings.get(name, {"betas": BETAS}), step=step)
        else:
            momentum = 0.0 if name == "plain" else 0.9
            optim.sgd(w, g, m if momentum else None, momentum=momentum, nesterov=name == "nesterov", step=step)
        return
    scaled, keep = g * step.scale, 1 - step.lr * step.decay
    if name == "adamw":
        m[:] = BETAS[0] * m + (1 - BETAS[0]) * scaled
        v[:] = BETAS[1] * v + (1 - BETAS[1]) * scaled**2
        move = m / (1 - BETAS[0] ** 3) / (np.sqrt(v / (1 - BETAS[1] ** 3)) + EPS)
    elif name == "lion":
        move = np.sign(BETAS[0] * m + (1 - BETAS[0]) * scaled)
        m[:] = BETAS[1] * m + (1 - BETAS[1]) * scaled
    elif name == "muon":
        m[:] = 0.95 * m + 0.05 * scaled
        move = 0.2 * (0.95 * m + 0.05 * scaled)
    else:
        m[:] = m if name == "plain" else 0.9 * m + scaled
        move = scaled if name == "plain" else scaled + 0.9 * m if name == "nesterov" else m
    w[:] = keep * w - step.lr * move
    if step.zero_grad:
        g[:] = 0


def arrays(n, seed=0):
    """w, g, m, v as float32."""
    w, g, m = (numbers(n, np.float32, seed + i) for i in range(3))
    return [w, g, m, np.abs(numbers(n, np.float32, seed + 3))]


@kernels
@narrow_types
@given(n=st.sampled_from([1, 3, 4, 65, 1030]), first=st.sampled_from([0, 3, 8]), zero_grad=st.booleans())
@few(4)
def test_a_step(device, name, narrow, n, first, zero_grad):
    """Any length, cut out of the flat buffers anywhere; and the copy is rounded as precision.py rounds all of it."""
    held = arrays(n + first)
    copy = None if narrow is None else on_device(np.zeros(n + first, narrow))
    there = [on_device(x) for x in held]
    parts = [x[first:] for x in there]
    key = rounding_key(7, 3)
    step = Step(LR, DECAY, SCALE, zero_grad, first, None if copy is None else copy[first:], *key)
    run(name, *parts, step)
    right = [x[first:].astype(np.float64) for x in held]
    run(name, *right, step)
    for found, expected in zip(parts, right, strict=True):
        np.testing.assert_allclose(found.held, expected, rtol=2e-6, atol=2e-6)
    for found, before in zip(there, held, strict=True):
        np.testing.assert_array_equal(found.held[:first], before[:first])
    if copy is not None:
        expected = np.zeros(n + first, narrow)
        round_into(expected, there[0].held, key)
        np.testing.assert_array_equal(copy.held[first:], expected[first:])
        assert not copy.held[:first].any()


@pytest.mark.slow
@pytest.mark.examples
@kernels
@narrow_types
@given(n=st.integers(1, 3000), first=st.integers(0, 9), zero_grad=st.booleans())
@few(40)
def test_many_steps(device, name, narrow, n, first, zero_grad):
    test_a_step.hypothesis.inner_test(device, name, narrow, n, first, zero_grad)


@kernels
def test_numbers_that_lie_on_the_device(device, name):
    """Learning rate, factor, corrections and the number of the step: the same bits as by value."""
    here, there = ([on_device(x) for x in arrays(21)] for _ in range(2))
    copies = [on_device(np.zeros(21, bfloat16)) for _ in range(2)]
    seed, number = rounding_key(7, 3)
    run(name, *here, Step(LR, DECAY, SCALE, True, 0, copies[0], seed, number))
    lr, scale = on_device(np.float32(LR)), on_device(np.float32(SCALE))
    step = Step(lr, DECAY, scale, True, 0, copies[1], seed, on_device(np.array(number, np.uint64)))
    if name == "adamw":
        rises = on_device(np.array([1 / (1 - b**3) for b in BETAS], np.float32))
        optim.adamw(*there, betas=BETAS, eps=EPS, rises=rises, step=step)
    else:
        run(name, *there, step)
    for a, b in zip([*here, copies[0]], [*there, copies[1]], strict=True):
        np.testing.assert_array_equal(a.held, b.held)


@kernels
@pytest.mark.parametrize("factor", [0.0, np.nan, np.inf])
def test_a_step_that_is_not_taken(device, name, factor):
    """All stays as it was, whatever the gradient holds; but the gradient is cleared for the next one."""
    held = arrays(13)
    held[1][5] = np.nan
    there, copy = [on_device(x) for x in held], on_device(np.ones(13, bfloat16))
    run(name, *there, Step(LR, DECAY, on_device(np.float32(factor)), True, 0, copy, 1, 1))
    for i, (found, before) in enumerate(zip(there, held, strict=True)):
        np.testing.assert_array_equal(found.held, 0 * found.held if i == 1 else before)
    np.testing.assert_array_equal(copy.held, np.ones(13))


def test_parts_are_the_whole(device):
    """Cut anywhere, the same bits: a fused optimizer goes parameter by parameter."""
    whole, parts = ([on_device(x) for x in arrays(50)] for _ in range(2))
    copies = [on_device(np.zeros(50, bfloat16)) for _ in range(2)]
    run("adamw", *whole, Step(LR, DECAY, SCALE, False, 0, copies[0], 5, 6))
    for start, stop in ((0, 7), (7, 9), (9, 10), (10, 50)):
        step = Step(LR, DECAY, SCALE, False, start, copies[1][start:stop], 5, 6)
        run("adamw", *(x[start:stop] for x in parts), step)
    for a, b in zip([*whole, copies[0]], [*parts, copies[1]], strict=True):
        np.testing.assert_array_equal(a.held, b.held)


def test_rounding_by_chance_is_right_on_the_average(device, schedule):
    """A million weights 0.3 of the way to the next bfloat16: the mean misses it by less than three deviations."""
    if str(schedule) != "ascending":
        pytest.skip("no two threads meet here: one schedule is all")
    share, n = 0.3, 1 << 20
    w, copy = on_device(np.full(n, 1 + share * 2**-7, np.float32)), on_device(np.zeros(n, bfloat16))
    none = on_device(np.zeros(n, np.float32))
    optim.sgd(w, none, None, momentum=0.0, nesterov=False, step=Step(LR, 0.0, 1.0, False, 0, copy, *rounding_key(1, 2)))
    found = (copy.held.astype(np.float64) - 1) * 2**7
    assert set(np.unique(found)) == {0.0, 1.0}
    assert abs(found.mean() - share) < 3 * math.sqrt(share * (1 - share) / n)


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Lion", "Muon"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_optimizers_of_the_house(device, name, precision):
    """Three steps as on the CPU, where the formulas run; and what the model computes with follows."""
    on_cpu, on_gpu = (optimizer_of(name, precision, place) for place in ("cpu", "cuda"))
    assert on_gpu.gpu_kernels() is optim
    assert on_gpu.changed() == []
    for i in range(3):
        g = numbers(on_cpu.flat.gradients.shape, np.float32, seed=10 + i)
        on_cpu.flat.gradients[:] = g
        on_gpu.flat.gradients[...] = on_device(g)
        device.counts.clear()
        for optimizer in (on_cpu, on_gpu):
            optimizer.step(1e-2, scale=0.5, zero_grad=True)
        assert device.counts["sync"] == device.counts["h2d"] == 0
        assert not on_gpu.flat.gradients.held.any()
    found, right = on_gpu.flat.parameters.held, on_cpu.flat.parameters
    # Beside 16-bit weights Muon's products have 8 bits, and three steps have moved weights by up to 0.01.
    rough = name == "Muon" and precision == "bf16"
    np.testing.assert_allclose(found, right, rtol=2e-5, atol=5e-4 if rough else 2e-6)
    if precision == "bf16":
        rounded = np.empty(found.shape, bfloat16)
        round_into(rounded, found, rounding_key(on_gpu.flat.seed, 3))
        np.testing.assert_array_equal(on_gpu.flat.compute.held, rounded)


def optimizer_of(name, precision, place):
    """For a linear map of 6 numbers to 9, which for Muon is two maps."""
    module = Linear(6, 9, rng=np.random.default_rng(4)).to(place)
    flat = FlatParameters(module, precision=precision, seed=3)
    extra = {"hidden": {"weight": (4, 5)}} if name == "Muon" else {}
    return getattr(optimizers, name)(flat, weight_decay=0.1, **extra)
