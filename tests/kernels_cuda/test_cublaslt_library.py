"""gemm on the stand-in: what the library says about an algorithm, and the memory that products use on the way."""

import gc
import sys
from typing import Any

import numpy as np
import pytest

from nanograd.kernels.cuda import cublaslt
from nanograd.kernels.cuda.cublaslt_abi import Status

pytest.importorskip("cupy", reason="the stand-in asks the real CuPy which names it has: pip install cupy-cuda13x")
from tests import fake_cublaslt, fake_cuda, fake_cupy


@pytest.fixture
def library(monkeypatch):
    for name, module in fake_cupy.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    library = fake_cublaslt.FakeCublasLt()
    cublaslt.register(fake_cupy, lambda: library)
    return library


def matrices():
    return [fake_cupy.asarray(np.ones((8, 8), np.float32)) for _ in range(3)]


def test_an_algorithm_that_the_heuristics_doubt_is_none(library, monkeypatch):
    """The call succeeds and names an algorithm, but its own state says that it can't be used."""
    ask = library.cublasLtMatmulAlgoGetHeuristic

    def doubts(*arguments: Any) -> int:
        status = ask(*arguments)
        arguments[-2]._obj.state = Status.NOT_SUPPORTED
        return status

    monkeypatch.setattr(library, "cublasLtMatmulAlgoGetHeuristic", doubts)
    assert not cublaslt.attempt(fake_cupy, *matrices())


@pytest.mark.usefixtures("library")
def test_a_stream_that_is_gone_has_no_memory():
    """Each text that a model writes has a stream of its own."""
    for n in range(1, 4):
        with fake_cuda.Stream():
            cublaslt.gemm(fake_cupy, *matrices())
        gc.collect()
        (device,) = (found for (xp, _), found in cublaslt._devices.items() if xp is fake_cupy)
        assert len(device.workspaces) == 0, n
