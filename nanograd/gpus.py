"""Floor 0. Which GPUs there are, asked of NVIDIA's driver itself: so CuPy need not be there to say what is missing.

Source: https://docs.nvidia.com/cuda/cuda-driver-api/, groups "Version Management" and "Device Management"
"""

import ctypes
import functools
import sys
from typing import Any, NamedTuple

MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…
OLDEST = 80  # sm_80, Ampere: the first with bf16 products; the kernels need it


class Gpu(NamedTuple):
    """What a driver says about a device."""

    name: str
    capability: int  # 90: compute capability 9.0, sm_90
    memory: int  # bytes


@functools.cache
def _driver() -> Any | None:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def driver_version() -> tuple[int, int] | None:
    """The newest CUDA that the driver can run, (13, 0) say; None without a driver."""
    number = ctypes.c_int()
    driver = _driver()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(number)):
        return None
    return number.value // 1000, number.value % 1000 // 10


def gpus() -> list[Gpu]:
    """All that the driver finds, by their number."""
    driver, count = _driver(), ctypes.c_int()
    if driver is None or driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    return [_describe(driver, i) for i in range(count.value)]


def _describe(driver: Any, number: int) -> Gpu:
    device, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), number)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    for which, into in ((MAJOR, major), (MINOR, minor)):
        driver.cuDeviceGetAttribute(ctypes.byref(into), which, device)
    return Gpu(name.value.decode(errors="replace"), 10 * major.value + minor.value, memory.value)


def why_none(needed: int) -> str:
    """Why CuPy for CUDA `needed` finds no GPU, and what to do."""
    version = driver_version()
    if version is None:
        return "there is no NVIDIA driver on this machine"
    if version[0] < needed:
        instead = f", or pip install 'nanograd[cuda{version[0]}]'" if version[0] >= 12 else ""
        return (
            f"the driver is too old: it runs CUDA {version[0]}.{version[1]}, the CuPy installed here wants CUDA "
            f"{needed}: update the driver{instead}"
        )
    return "the driver finds no GPU (is CUDA_VISIBLE_DEVICES set?)"
