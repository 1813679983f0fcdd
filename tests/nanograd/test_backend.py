"""Which device an array is on, and one line for each thing that can be wrong with a device."""

import builtins
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from nanograd import backend, gpus
from nanograd.backend import DeviceError, check_device, choose_device, describe, to_device, to_host


def cupy_with(n_gpus: int) -> SimpleNamespace:
    """As much of CuPy as a look at its devices needs."""
    runtime = SimpleNamespace(getDeviceCount=lambda: n_gpus, runtimeGetVersion=lambda: 13_020)
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
        with pytest.raises(DeviceError, match=f"^device {name!r} is unknown: use auto, cpu, cuda, or cuda:N$"):
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


@pytest.mark.parametrize(
    ("version", "why"),
    [
        (None, "there is no NVIDIA driver on this machine"),
        ((11, 8), "the driver is too old: it runs CUDA 11.8, the CuPy installed here wants CUDA 13: update the driver"),
        ((12, 4), "it runs CUDA 12.4, the CuPy installed here wants CUDA 13: update the driver, or pip install "
                  "'nanograd[cuda12]'"),
        ((13, 0), "the driver finds no GPU (is CUDA_VISIBLE_DEVICES set?)"),
    ],
)  # fmt: skip
def test_cuda_without_a_gpu_says_what_is_missing(version, why, monkeypatch):
    monkeypatch.setattr(gpus, "driver_version", lambda: version)
    monkeypatch.setitem(sys.modules, "cupy", cupy_with(n_gpus=0))
    with pytest.raises(DeviceError) as caught:
        check_device("cuda")
    assert str(caught.value).startswith("device 'cuda': ")
    assert str(caught.value).endswith(f"{why}; or use --device cpu")


def test_auto_is_the_first_gpu_that_can_be_used_or_the_cpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", cupy_with(n_gpus=1))
    monkeypatch.setattr(gpus, "gpus", lambda: [gpus.Gpu("NVIDIA H200", 90, 150 * 10**9)])
    assert choose_device() == ("cuda", "NVIDIA H200")
    monkeypatch.setattr(gpus, "driver_version", lambda: None)
    monkeypatch.setitem(sys.modules, "cupy", cupy_with(n_gpus=0))
    assert choose_device() == ("cpu", "there is no NVIDIA driver on this machine")
    monkeypatch.delitem(sys.modules, "cupy")
    assert choose_device() == ("cpu", "no NVIDIA driver")


class Driver:
    """As much of libcuda as is asked, of a machine with two GPUs."""

    NAMES = b"NVIDIA H200", b"NVIDIA A100"
    CAPABILITIES = 90, 86

    def cuDriverGetVersion(self, number):  # noqa: N802
        number._obj.value = 12_080
        return 0

    def cuInit(self, flags):  # noqa: N802
        return 0

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = 2
        return 0

    def cuDeviceGet(self, device, number):  # noqa: N802
        device._obj.value = number

    def cuDeviceGetName(self, name, size, device):  # noqa: N802
        name.value = self.NAMES[device.value]

    def cuDeviceTotalMem_v2(self, memory, device):  # noqa: N802
        memory._obj.value = (device.value + 1) << 33

    def cuDeviceGetAttribute(self, value, which, device):  # noqa: N802
        major, minor = divmod(self.CAPABILITIES[device.value], 10)
        value._obj.value = major if which == gpus.MAJOR else minor


def test_the_driver_is_asked_what_there_is(monkeypatch):
    monkeypatch.setattr(gpus, "_driver", Driver)
    assert gpus.driver_version() == (12, 8)
    assert gpus.gpus() == [gpus.Gpu("NVIDIA H200", 90, 1 << 33), gpus.Gpu("NVIDIA A100", 86, 1 << 34)]
    monkeypatch.setattr(gpus, "_driver", lambda: None)
    assert gpus.driver_version() is None
    assert gpus.gpus() == []


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
