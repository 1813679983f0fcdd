"""The emulator keeps its promises: every fault that it claims to see, it sees; and what is right stays right."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanograd.kernels.cuda.emulation import SCHEDULES, EmulationError, Emulator, Schedule
from nanograd.random import random_words
from tests.kernels_cuda.emulated import bfloat16

FAULTS = Path(__file__).with_name("faults.cu")
LATE, EAGER = Schedule(), Schedule(eager=True)


class Held:
    """As much of a device array as a launch needs."""

    def __init__(self, array: np.ndarray) -> None:
        self.held, self.shape, self.dtype = array, array.shape, array.dtype
        self.data = type("Pointer", (), {"ptr": array.ctypes.data})


def run(
    kernel: str, *arguments: Any, schedule: Schedule = LATE, threads: int = 32, blocks: int = 1, **more: Any
) -> None:
    arguments = tuple(Held(x) if isinstance(x, np.ndarray) else x for x in arguments)
    flags = more.pop("flags", ())
    Emulator(schedule, flags=flags).run(FAULTS, kernel, (blocks, 1, 1), (threads, 1, 1), arguments, **more)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def line(mark: str) -> str:
    lines = FAULTS.read_text().splitlines()
    return str(next(i for i, text in enumerate(lines, 1) if text.endswith(f"// LINE {mark}")))


every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)


@every_schedule
def test_a_barrier_in_a_divergent_branch_is_named_by_its_line(schedule):
    with pytest.raises(EmulationError, match="divergent_barrier: divergent __syncthreads: lines") as caught:
        run("divergent_barrier", zeros(1), threads=64, schedule=schedule)
    assert line("A") in str(caught.value)
    assert line("B") in str(caught.value)


@every_schedule
def test_a_deadlock_is_reported(schedule):
    with pytest.raises(EmulationError, match=r"deadlock: deadlock: some threads never reach .* \(block 0, 0\)"):
        run("deadlock", zeros(1), schedule=schedule)


@every_schedule
def test_lanes_that_meet_at_different_lines_are_reported(schedule):
    with pytest.raises(EmulationError, match="divergent warp collective: lines") as caught:
        run("divergent_shuffle", zeros(32), schedule=schedule)
    assert line("C") in str(caught.value)
    assert line("D") in str(caught.value)


def test_a_lane_must_be_in_its_own_mask():
    with pytest.raises(EmulationError, match="a lane that its own mask does not name"):
        run("not_in_its_mask", zeros(32))


@every_schedule
def test_halves_of_a_warp_may_go_their_own_ways(schedule):
    y = zeros(32)
    run("halves_of_a_warp", y, schedule=schedule)
    np.testing.assert_array_equal(y, np.arange(32) ^ 1)  # three exchanges below, one above


def test_a_lane_that_has_returned_gives_nothing():
    y = zeros(32)
    run("from_a_lane_that_returned", y)
    assert np.isnan(np.delete(y, 7)).all()


def test_a_misaligned_access_is_reported():
    with pytest.raises(EmulationError, match="misaligned 16-byte access"):
        run("misaligned_pack", zeros(8), zeros(8))


def test_shared_memory_begins_as_nan_in_every_block():
    y = zeros(2)
    run("never_written", y, blocks=2, threads=1, shared=16)
    assert np.isnan(y).all()


@every_schedule
def test_a_barrier_makes_the_result_independent_of_the_schedule(schedule):
    x, y = np.arange(128, dtype=np.float32), zeros(128)
    run("reverse", x, y, threads=128, schedule=schedule)
    np.testing.assert_array_equal(y, x[::-1])


@every_schedule
def test_a_missing_barrier_shows(schedule):
    x, y = np.arange(128, dtype=np.float32), zeros(128)
    run("reverse_without_a_barrier", x, y, threads=128, schedule=schedule)
    assert np.isnan(y).any()


def test_a_copy_that_nobody_waited_for_shows():
    x, y = np.arange(128, dtype=np.float32), zeros(32)
    run("copy_never_waited_for", x, y, schedule=LATE)
    assert np.isnan(y).all()
    run("copy_never_waited_for", x, y, schedule=EAGER)
    np.testing.assert_array_equal(y, x[::4])


def test_a_copy_into_what_is_still_read_shows():
    x, y = np.arange(128, dtype=np.float32), zeros(32)
    run("copied_into_what_is_read", x, y, schedule=LATE)
    np.testing.assert_array_equal(y, np.ones(32))
    run("copied_into_what_is_read", x, y, schedule=EAGER)
    np.testing.assert_array_equal(y, x[::4])


@pytest.mark.parametrize("schedule", [LATE, EAGER], ids=["late", "eager"])
@pytest.mark.parametrize("count", range(5))
def test_a_copy_in_part_fills_up_with_zeros(schedule, count):
    x, y = np.arange(1, 5, dtype=np.float32), zeros(4)
    run("copy_in_part", x, y, 4 * count, threads=1, schedule=schedule)
    np.testing.assert_array_equal(y, np.where(np.arange(4) < count, x, 0))


def test_blocks_come_in_the_schedules_order():
    y = np.zeros(1, np.int32)
    for order, last in (("ascending", 4), ("descending", 0)):
        run("last_block", y, blocks=5, threads=1, schedule=Schedule(order))
        assert y[0] == last


def test_a_fence_around_device_memory_shows_a_write_beside_it(device):
    y = device.zeros((3, 5), np.float32)
    emulator = Emulator()
    launch = device.launcher(lambda kernel, *rest: emulator.run(FAULTS, kernel, *rest))
    for array in (y, y.reshape(5, 3)):
        launch("one_too_far", (1, 1, 1), (1, 1, 1), (array, 14), 0)
        with pytest.raises(MemoryError, match="written beside an array of 60 bytes"):
            launch("one_too_far", (1, 1, 1), (1, 1, 1), (array, 15), 0)
        array.held.base[...] = 255
    with pytest.raises(MemoryError, match="written beside"):
        launch("one_too_far", (1, 1, 1), (1, 1, 1), (y, -1), 0)


def test_new_device_memory_is_nan(device):
    assert np.isnan(device.empty((2, 3), np.float32).held).all()
    assert np.isnan(device.empty_like(device.zeros(4, np.float16)).held).all()


REFUSED = {
    "another dtype": (zeros(1).astype(np.float64), 1),
    "an array for a number": (zeros(1), zeros(1)),
    "a float for an int": (zeros(1), 1.0),
    "64 bits for 32": (zeros(1), np.int64(1)),
    "one too few": (zeros(1),),
    "one too many": (zeros(1), 1, 1),
}


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED.keys())
def test_arguments_of_another_type_are_refused(arguments):
    """On the device their bits would be taken for something else."""
    with pytest.raises(EmulationError, match=r"one_too_far takes \(float32\*, int32\), not \("):
        run("one_too_far", *arguments)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"threads": 1025}, "more than 1024 threads"), ({"shared": 164 * 1024}, "more than 163 KB of shared memory")],
    ids=["threads", "shared memory"],
)
def test_a_block_that_is_too_large_is_refused(sizes, message):
    with pytest.raises(EmulationError, match=message):
        run("last_block", np.zeros(1, np.int32), **sizes)


def test_a_stack_that_is_too_small_ends_the_process_at_once():
    """Rather than writing over another thread's stack."""
    code = (
        "from tests.kernels_cuda.test_emulator import *; run('more_stack_than_there_is', zeros(1)); print('survived')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode < 0
    assert "survived" not in done.stdout


@pytest.mark.parametrize("flags", [(), ("-DNK_UCONTEXT",)], ids=["native", "ucontext"])
@every_schedule
def test_both_kinds_of_fibers_give_the_same(flags, schedule):
    x, y = np.random.default_rng(0).standard_normal(96, np.float32), zeros(96, 4)
    run("block_reductions", x, y, threads=96, schedule=schedule, flags=flags)
    np.testing.assert_allclose(y[:, :2] / x.sum(), np.tile([1, 2], (96, 1)), rtol=1e-5)
    np.testing.assert_array_equal(y[:, 2:], np.tile([x.max(), x.min()], (96, 1)))


# The number types, chance, and the tensor cores


@pytest.mark.parametrize(("name", "dtype"), [("bf16", bfloat16), ("f16", np.dtype(np.float16))])
def test_every_16_bit_number_becomes_the_right_float(name, dtype):
    y = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    back = np.zeros(y.size, np.float32)
    run(f"convert_{name}", None, y, back, y.size)
    np.testing.assert_array_equal(back, y.astype(np.float32))


@pytest.mark.parametrize(("name", "dtype"), [("bf16", bfloat16), ("f16", np.dtype(np.float16))])
def test_every_float_becomes_the_nearest_16_bit_number(name, dtype):
    """All sizes, the halfway points between neighbours and what lies just beside those, infinities and NaN."""
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float32)
    halfway = (np.arange(1 << 16, dtype=np.uint32) << 16 | 0x8000).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.concatenate([every, halfway, (every[:-1] + every[1:]) / 2])
    steps = steps[~np.isnan(steps)]
    bits = np.random.default_rng(0).integers(0, 1 << 32, 50_000, np.uint32).view(np.float32)
    x = np.concatenate([steps, np.nextafter(steps, np.float32(np.inf)), np.nextafter(steps, -np.float32(np.inf)), bits])
    y, back = np.zeros(x.size, dtype), zeros(x.size)
    run(f"convert_{name}", x, y, back, x.size)
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(y.astype(np.float32), x.astype(dtype).astype(np.float32))


def test_chance_draws_the_words_of_nanograd_random():
    for call, seed in ((0, 0), (7, 9), (1 << 40, (1 << 62) + 12345)):
        y = np.zeros(101, np.uint32)
        run("draw", y, np.int64(call), np.int64(seed), y.size)
        np.testing.assert_array_equal(y, random_words(np, (101,), (seed, call)))


def test_rounding_by_chance_goes_to_one_of_two_neighbours_and_is_right_on_average():
    x = np.full(1024, 1 + 3 / 1024, np.float32)  # three eighths of the way to the next number
    random, y = np.arange(1024, dtype=np.uint32) * 64, np.zeros(1024, bfloat16)
    run("round_by_chance", x, random, y, threads=1024)
    np.testing.assert_array_equal(np.unique(y.astype(np.float32)), [1, 1 + 2**-7])
    assert (y > 1).mean() == 3 / 8
    special = np.array([0x7F800000, 0xFF800000, 0x7FC00000, 0x7FFFFFFF], np.uint32).view(np.float32)  # ∞, −∞, NaN, NaN
    y = np.zeros(4, bfloat16)
    run("round_by_chance", special, np.full(4, 0xFFFFFFFF, np.uint32), y, threads=4)
    np.testing.assert_array_equal(y.astype(np.float32), special)


@every_schedule
@pytest.mark.parametrize(("name", "dtype"), [("bf16", bfloat16), ("f16", np.dtype(np.float16))])
def test_the_tensor_cores_multiply(name, dtype, schedule):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((16, 16)).astype(dtype), rng.standard_normal((16, 8)).astype(dtype)
    d = zeros(16, 8)
    run(f"product_{name}", a, b, d, schedule=schedule)
    np.testing.assert_allclose(d, a.astype(np.float64) @ b.astype(np.float64), rtol=1e-5, atol=1e-5)


@every_schedule
def test_votes_are_counted(schedule):
    x, y = np.arange(-8, 24, dtype=np.int32), np.zeros(32, np.uint32)
    run("votes", x, y, schedule=schedule)
    assert set(y) == {(0xFFFFFFFF >> 9 << 9) + 2}
