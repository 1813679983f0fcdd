"""Kernels without a GPU: the stand-in for CuPy, whose launches run in the emulator under each of six schedules."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanograd import backend
from nanograd.kernels.cuda import cublaslt, launch, sources
from nanograd.kernels.cuda.emulation import SCHEDULES, EmulationError, Emulator, Schedule, find_compiler

if folder := os.environ.get("KERNELS_UNDER_TEST"):  # a copy with one fault in it (test_mutations.py)
    sources.FOLDER = Path(folder)

FLAGS = tuple(os.environ.get("EMULATOR_FLAGS", "").split())  # -fsanitize=address, say (test_addresses.py)


@pytest.fixture(params=SCHEDULES, ids=str)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """Who runs when."""
    return request.param


@pytest.fixture
def device(schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The array module of an emulated device. Operations on its arrays run the CUDA twins."""
    pytest.importorskip("cupy", reason="the stand-in asks the real CuPy which names it has")
    pytest.importorskip("ml_dtypes")
    try:
        find_compiler()
    except EmulationError as error:
        pytest.skip(str(error))
    from tests import fake_cublaslt, fake_cupy
    from tests.kernels_cuda import limits

    for name, module in fake_cupy.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    emulator = Emulator(schedule, flags=FLAGS)

    def run(kernel: str, grid: Any, block: Any, arguments: Any, shared: int) -> None:
        limits.check(kernel, grid, block, shared)
        emulator(kernel, grid, block, arguments, shared)

    launch.register(fake_cupy, fake_cupy.launcher(run))
    cublaslt.register(fake_cupy, fake_cublaslt.FakeCublasLt)
    launch.register_twins(fake_cupy)
    backend.use_kernels(True)
    fake_cupy.counts.clear()
    yield fake_cupy
    launch.forget(fake_cupy)
