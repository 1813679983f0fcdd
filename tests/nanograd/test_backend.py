"""Which device an array is on, and one line for each thing that can be wrong with a device."""

import builtins
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from nanograd import backend
from nanograd.backend import DeviceError, check_device, describe, to_device, to_host


def cupy_with(n_gpus: int) -> SimpleNamespace:
    """As much of CuPy as a look at its devices needs."""
    runtime = SimpleNamespace(getDeviceCount=lambda: n_gpus)
    return SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: n_gpus > 0, runtime=runtime))


def test_on_the_cpu_nothing_is_copied():
    a = np.ones(3)
    assert to_device(a, "cpu") is a
    assert to_host(a) is a
    assert backend.device_of(a) == "cpu"
    assert backend.array_module(a) is np
    check_device("cpu")


@pytest.mark.parametrize("name", ["gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda 0", "", "cpu:0"])
def test_an_unknown_device_is_named(name):
    for attempt in (lambda: check_device(name), lambda: to_device(np.ones(2), name)):
        with pytest.raises(DeviceError, match=f"^device {name!r} is unknown: use cpu, cuda, or cuda:N$"):
            attempt()


def test_cuda_without_cupy_says_what_to_install(monkeypatch):
    def no_cupy(name, *args, **settings):
        if name == "cupy":
            raise ImportError(name)
        return real_import(name, *args, **settings)

    real_import = builtins.__import__
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(builtins, "__import__", no_cupy)
    for attempt in (lambda: check_device("cuda"), lambda: to_device(np.ones(2), "cuda:0")):
        with pytest.raises(DeviceError, match=r"^device 'cuda(:0)?' needs CuPy: pip install 'nanograd\[cuda13\]'"):
            attempt()


def test_cuda_without_a_gpu_says_what_to_use(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", cupy_with(n_gpus=0))
    with pytest.raises(DeviceError, match=r"^device 'cuda': CuPy is installed but finds no GPU; use --device cpu$"):
        check_device("cuda")


def test_a_gpu_that_is_not_there_is_counted(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", cupy_with(n_gpus=2))
    check_device("cuda")
    check_device("cuda:1")
    with pytest.raises(DeviceError, match=r"^device 'cuda:2': this machine has 2 GPU\(s\), numbered from 0$"):
        check_device("cuda:2")


def test_a_device_error_is_a_value_error():
    assert issubclass(DeviceError, ValueError)


@pytest.mark.parametrize(
    ("operand", "words"),
    [
        (np.ones((2, 3), np.float32), "float32 (2, 3)"),
        (np.ones((), bool), "bool ()"),
        (None, "None"),
        (1.5, "1.5"),
        (True, "True"),
        ("text", "a str"),
        ([1, 2], "a list"),
    ],
)
def test_an_operand_is_described_in_few_words(operand, words):
    assert describe(operand) == words
