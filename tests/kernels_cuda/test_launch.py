"""What a launch hands to the real CuPy, and what no device would take."""

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nanograd.kernels.cuda import launch as launching
from nanograd.kernels.cuda.emulation import EmulationError
from nanograd.kernels.cuda.launch import STATIC_LIMIT, launch
from tests.kernels_cuda import limits
from tests.kernels_cuda.emulated import on_device, one_schedule


class Function:
    """CuPy's RawKernel, as far as a launch uses it."""

    max_dynamic_shared_size_bytes = STATIC_LIMIT
    shared_size_bytes = 0  # static

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, grid: Any, block: Any, arguments: Any, *, shared_mem: int) -> None:
        self.calls.append((grid, block, arguments, shared_mem))


@pytest.fixture
def function(monkeypatch):
    """The kernel that every launch on CuPy's arrays starts here."""
    one = Function()
    monkeypatch.setattr(launching, "_function", lambda xp, kernel, device: one)
    return one


class CuPy:
    """As much of the module."""

    cuda = SimpleNamespace(runtime=SimpleNamespace(getDevice=lambda: 0))


def passed(x: Any) -> Any:
    """The bytes that CuPy gives to a kernel for a number: those of a NumPy scalar, 8 for Python's own."""
    return x.tobytes() if isinstance(x, np.generic) else np.asarray(x).tobytes()


@pytest.mark.parametrize("number", [0.5, np.float64(0.5), np.float32(0.5)])
def test_a_float_arrives_as_the_four_bytes_of_a_float(function, number):
    """Of a float64 a kernel would read the lower half, which for 0.5 is 0."""
    launch(CuPy, "softmax_forward_f32", 1, 32, number)
    ((*_, arguments, _),) = function.calls
    assert ctypes.c_float.from_buffer_copy(passed(arguments[0])).value == 0.5
    assert len(passed(arguments[0])) == 4


@pytest.mark.parametrize(("number", "value"), [(-3, -3), (True, 1)])
def test_an_int_and_a_truth_value_arrive_as_an_int(function, number, value):
    launch(CuPy, "softmax_forward_f32", 1, 32, number)
    ((*_, arguments, _),) = function.calls
    assert passed(arguments[0]) == bytes(ctypes.c_int(value))


def test_what_has_eight_bytes_keeps_them(function):
    launch(CuPy, "adamw_f32", 1, 32, np.uint64(7), np.int64(-7), None)
    ((*_, arguments, _),) = function.calls
    assert [passed(x) for x in arguments] == [bytes(ctypes.c_int64(x)) for x in (7, -7, 0)]


def test_an_int_that_a_kernel_cannot_hold_is_refused(function):
    with pytest.raises(OverflowError):
        launch(CuPy, "softmax_forward_f32", 1, 32, 2**31)


@pytest.mark.parametrize("grid", [0, (3, 0), (0, 0, 0)])
def test_an_empty_grid_starts_nothing(function, grid):
    """CuPy would make one block of it, which would write beside an array without numbers."""
    launch(CuPy, "softmax_forward_f32", grid, 32)
    assert function.calls == []


def test_a_kernel_is_allowed_the_shared_memory_that_it_asks_for(function):
    launch(CuPy, "attention_forward_64_bf16", 1, 128, shared=STATIC_LIMIT)
    assert "max_dynamic_shared_size_bytes" not in vars(function)
    launch(CuPy, "attention_forward_128_bf16", 1, 128, shared=STATIC_LIMIT + 1)
    assert function.max_dynamic_shared_size_bytes == STATIC_LIMIT + 1


@one_schedule
def test_the_emulator_takes_numbers_as_cupy_does(device, function):
    x, y = on_device(np.ones((1, 4), np.float32)), device.empty((1, 4), np.float32)
    launch(device, "softmax_forward_f32", 1, 32, x, y, 4, np.float64(1.0))
    np.testing.assert_array_equal(y.held, 0.25)


REFUSED = {
    "a block of the launch bounds and one warp more": ("rotary_rows_f32", (1, 1, 1), (160, 1, 1), 0),
    "a block that is too deep": ("softmax_forward_f32", (1, 1, 1), (1, 1, 128), 0),
    "a grid that is too high": ("norm_sums", (1, 65_536, 1), (32, 32, 1), 0),
    "a grid that is too deep": ("attention_forward_64_bf16", (1, 1, 65_536), (128, 1, 1), 0),
    "a grid that is too long": ("squares_f32", (2**31, 1, 1), (256, 1, 1), 0),
    "shared memory that consumer GPUs lack": ("attention_forward_64_bf16", (1, 1, 1), (128, 1, 1), 100 * 1024),
    "static and dynamic together": ("sort_ids", (1, 1, 1), (1024, 1, 1), 70 * 1024),
}


@pytest.mark.parametrize("what", REFUSED.values(), ids=REFUSED.keys())
def test_what_no_device_takes(what):
    with pytest.raises(EmulationError, match="no device takes"):
        limits.check(*what)


def test_the_bounds_of_all_kernels_are_known():
    assert set(limits.bounds()) == set(limits.static_shared())
    assert limits.bounds()["norm_sums"] == 1024
    assert limits.bounds()["layer_norm_bf16"] == 512
    assert "attention_forward_64_f32" not in limits.bounds()


def test_static_and_dynamic_shared_memory_count_together(function):
    function.shared_size_bytes, function.max_dynamic_shared_size_bytes = 4096, STATIC_LIMIT - 4096
    launch(CuPy, "softmax_forward_f32", 1, 32, shared=STATIC_LIMIT - 1000)
    assert function.max_dynamic_shared_size_bytes == STATIC_LIMIT - 1000
