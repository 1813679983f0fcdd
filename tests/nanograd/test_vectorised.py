"""Do the loops of the kernels run in vectors? The assembly says: packed instructions on registers of 8 or 16 floats.

A kernel that LLVM could not vectorise is right and four to ten times as slow, and nothing else in the tests would tell.
"""

import importlib
import platform
import re
from typing import Any

import llvmlite.binding
import numpy as np
import pytest
from numba import njit
from numba.core.registry import CPUDispatcher

from nanograd import backend
from nanograd.kernels.cpu import optim
from nanograd.kernels.cpu.support import SERIAL, exp
from nanograd.testing import value_and_gradients
from tests.nanograd.test_twins import LARGE

pytestmark = pytest.mark.usefixtures("twins")

FAMILIES = ("activation", "dropout", "head_norm", "indexing", "mlp", "normalization", "optim", "rotary", "softmax")
MODULES = [importlib.import_module(f"nanograd.kernels.cpu.{name}") for name in FAMILIES]
KERNELS: dict[str, Any] = {
    name: kernel
    for module in MODULES
    for name, kernel in vars(module).items()
    if isinstance(kernel, CPUDispatcher)
    and (kernel.targetoptions.get("parallel") or "for_each" in kernel.py_func.__code__.co_names)
    and kernel.__module__ == module.__name__
}
FLOATS = r"v(fn?m(add|sub)\d+|mul|add|sub|div|max|min|sqrt)ps"
EXPECTED = {"_drop": "vpmuludq", "_squares": r"v(fmadd\d+|mul)pd", "_relu": "v(max|cmp.*|blendv|and)ps"}

every = pytest.mark.parametrize
AVX2 = platform.machine() in ("x86_64", "AMD64") and llvmlite.binding.get_host_cpu_features().get("avx2", False)
needs_avx2 = pytest.mark.skipif(not AVX2, reason="packed instructions are looked for in x86-64 assembly with AVX2")


@pytest.fixture(scope="module")
def _used() -> None:
    """Call every kernel once, so that each knows the types it is called with."""
    before = backend.use_kernels(True)  # before any fixture of a single test runs
    for case in LARGE:
        value_and_gradients(lambda *tensors, case=case: case.call(tensors), case.draw(dtype=np.float32))
    w, g, m, v = np.ones((4, 100), np.float32)
    optim.adamw(w, g, m, v, step=1, lr=0.1, betas=(0.9, 0.9), eps=1e-8, decay=0.1, scale=1.0, zero_grad=True)
    optim.sgd(w, g, m, lr=0.1, momentum=0.9, nesterov=True, decay=0.1, scale=1.0, zero_grad=True)
    optim.lion(w, g, m, lr=0.1, betas=(0.9, 0.9), decay=0.1, scale=1.0, zero_grad=True)
    optim.sum_of_squares(g)
    backend.use_kernels(before)


def assembly(kernel: Any) -> str:
    """Compiled anew: what comes from the cache on disk cannot be looked at."""
    options = {name: value for name, value in kernel.targetoptions.items() if name not in ("cache", "nopython")}
    fresh = njit(**options)(kernel.py_func)
    fresh.compile(kernel.signatures[0])
    return next(iter(fresh.inspect_asm().values()))


def packed(text: str, instruction: str) -> list[str]:
    """The lines with that instruction on vector registers of 256 or 512 bits."""
    return [line for line in text.splitlines() if re.search(rf"\t{instruction}\t.*%[yz]mm", line)]


@needs_avx2
@pytest.mark.slow
@pytest.mark.usefixtures("_used")
@every("name", sorted(KERNELS))
def test_the_loops_are_vectors(name):
    assert len(KERNELS[name].signatures) == 1, "compiled more than once: for read-only arrays, or for another type?"
    text = assembly(KERNELS[name])
    assert packed(text, EXPECTED.get(name, FLOATS))
    assert not re.search(r"\bexpf?\b", text), "calls the C library's exp, number by number"


@needs_avx2
@pytest.mark.slow
def test_a_loop_with_the_c_librarys_exp_is_found_out():
    """The test of the test."""

    def of_the_c_library(x, y):
        for i in range(x.size):
            y[i] = np.exp(x[i])

    def ours(x, y):
        for i in range(x.size):
            y[i] = exp(x[i])

    options = {name: value for name, value in SERIAL.items() if name != "cache"}
    texts = []
    for function in (of_the_c_library, ours):
        kernel = njit(**options)(function)
        kernel(np.ones(3, np.float32), np.ones(3, np.float32))
        texts.append(next(iter(kernel.inspect_asm().values())))
    assert [bool(packed(text, FLOATS)) for text in texts] == [False, True]
    assert [bool(re.search(r"\bexpf?\b", text)) for text in texts] == [True, False]


def test_exp_is_within_one_unit_in_the_last_place():
    options = {name: value for name, value in SERIAL.items() if name != "cache"}

    @njit(**options)
    def fill(x, y):
        for i in range(x.size):
            y[i] = exp(x[i])

    x = np.concatenate([np.linspace(-86.5, 88.72, 1_000_001), np.linspace(-1, 1, 100_001)]).astype(np.float32)
    y = np.empty_like(x)
    fill(x, y)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(y - exact) / np.spacing(exact.astype(np.float32))).max() < 1.0
    limits = np.array([-np.inf, -1e30, -200, 0, 88.73, 1e30, np.inf, np.nan, 1e-30], np.float32)
    y = np.empty_like(limits)
    fill(limits, y)
    np.testing.assert_array_equal(y, np.array([0, 0, 0, 1, np.inf, np.inf, np.inf, np.nan, 1], np.float32))
