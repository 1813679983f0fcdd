"""Floor 0. Where the numbers live: NumPy arrays on the CPU, CuPy arrays on the GPU, both in one process."""

import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from typing import Any, TypeAlias

# A thread of OpenBLAS without work spins for 2²⁶ cycles, a fiftieth of a second in which it holds a core that Numba's
# threads want (and where the CPU lacks AVX-512, products are BLAS's). 2¹⁰ cycles outlast the way from one product to
# the next. Read when NumPy is first imported: set here, before that, unless the user has set it.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")

import numpy as np

from nanograd import gpus

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray
ArrayModule: TypeAlias = Any  # the module numpy or the module cupy: written `xp` in every formula


_use_kernels = False


def kernels_enabled() -> bool:
    """Whether twins run where they can: after `nanograd.kernels.load()`, and not inside `formulas_only`."""
    return _use_kernels


def kernels_allowed() -> bool:
    """False if NANOGRAD_KERNELS=0 in the environment keeps all twins off, or NUMBA_DISABLE_JIT=1 the compiler."""
    return os.environ.get("NANOGRAD_KERNELS") != "0" and os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")


def use_kernels(wanted: bool) -> bool:
    """Switch all twins on or off, as far as they are allowed; returns how it was."""
    global _use_kernels
    before, _use_kernels = _use_kernels, wanted and kernels_allowed()
    return before


@contextlib.contextmanager
def formulas_only() -> Iterator[None]:
    """Run the formulas as written in nanograd/ops, without their faster twins: try this when a number looks wrong."""
    before = use_kernels(False)
    try:
        yield
    finally:
        use_kernels(before)


class DeviceError(ValueError):
    """A device that this machine does not have, or a name that is no device."""


def is_floating(dtype: Any) -> bool:
    """Whether a NumPy dtype is a type of real numbers. bfloat16 is ml_dtypes's, which NumPy takes for no float."""
    return bool(dtype.kind == "f" or (dtype.kind == "V" and dtype.name == "bfloat16"))


def accumulator(dtype: Any) -> Any:
    """The type in which sums over `dtype` are kept: itself, but at least float32 for a floating-point type; else None.

    It is also the type of the gradient of a leaf, which is a sum over all of its uses.
    """
    dtype = np.dtype(dtype)
    return np.promote_types(dtype, np.float32) if is_floating(dtype) else None


def array_module(x: Array) -> ArrayModule:
    """The module whose functions accept `x`: numpy, or cupy once somebody has imported it."""
    if type(x) is np.ndarray:
        return np
    cupy = sys.modules.get("cupy")
    return np if cupy is None else cupy.get_array_module(x)


def special_functions(xp: ArrayModule) -> Any:
    """scipy.special or cupyx.scipy.special: home of erf, which neither array module has. Imported on first use."""
    if xp is np:
        import scipy.special

        return scipy.special
    import cupyx.scipy.special

    return cupyx.scipy.special


def device_of(x: Array) -> str:
    """'cpu' or 'cuda:0', 'cuda:1', …"""
    return "cpu" if array_module(x) is np else f"cuda:{x.device.id}"


def to_device(x: Array, device: str) -> Array:
    """The same numbers on `device` ('cpu', 'cuda', 'cuda:1'); the same array if they are there already.

    Raises DeviceError for an unknown name, a missing CuPy or a missing GPU.
    """
    if device == "cpu":
        return to_host(x)
    cupy, index = _cuda(device)
    with cupy.cuda.Device(index):
        return cupy.asarray(x)


def to_host(x: Array) -> Any:
    """The same numbers as a NumPy array."""
    return x if array_module(x) is np else x.get()


def work_on(device: str) -> None:
    """From now on this thread's new arrays are on that GPU, and so are its launches: CuPy begins with the first one.

    Nothing for the CPU. Raises DeviceError.
    """
    if device != "cpu":
        cupy, index = _cuda(device)
        cupy.cuda.Device(index).use()


def own_stream(device: str) -> Any:
    """`work_on` that device, on a stream that can be captured. Keep what is returned. None for the CPU."""
    work_on(device)
    return None if device == "cpu" else cuda_module(device).cuda.Stream(non_blocking=True).use()


def empty_pinned(shape: tuple[int, ...], dtype: Any) -> Any:
    """A NumPy array whose memory stays where it is, so that a GPU can copy it while the host does something else."""
    import cupyx

    return cupyx.empty_pinned(shape, dtype)


def keep_freed_memory() -> None:
    """Ask the C library to keep the memory that freed arrays leave, for the arrays of the next step.

    By default glibc maps each large array anew and hands it back when it is freed, so a training step faults in
    every page of every temporary again: up to two fifths of its time. Peak memory grows by fragmentation only.
    Affects the whole process, so commands call it and importing nanograd does not. Elsewhere than on glibc: nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # parameter numbers from <malloc.h>
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 2**26)


def let_threads_sleep() -> None:
    """How long a thread of OpenMP without work spins before it sleeps; to be called before Numba starts its threads.

    By default they spin for milliseconds: quick on a quiet machine, but beside any other busy process each parallel
    region then waits for a sibling that has no core. Sleeping at once costs a third of a small model's step. So
    libgomp (Linux) spins 1,000 rounds, some 20 microseconds, and libomp (macOS) a millisecond, its shortest. Numba's
    other layers, TBB's and its own, know neither variable. What the user has set in the environment is left alone.
    """
    for name, value in {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}.items():
        if "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault(name, value)


def describe(x: Any) -> str:
    """An operand in an error message: 'float32 (2, 3)', 'cuda float32 (2, 3)', or a plain number as it is."""
    if not hasattr(x, "dtype"):
        return repr(x) if x is None or isinstance(x, (int, float)) else f"a {type(x).__name__}"
    return f"{'' if array_module(x) is np else 'cuda '}{x.dtype} {tuple(x.shape)}"


def choose_device() -> tuple[str, str]:
    """What `--device auto` means here: the first GPU if arrays can be put there, else the CPU; and why."""
    if "cupy" not in sys.modules and gpus.driver_version() is None:  # importing CuPy takes half a second
        return "cpu", "no NVIDIA driver"
    try:
        check_device("cuda")
    except DeviceError as error:
        return "cpu", str(error).removeprefix("device 'cuda'").removesuffix("; or use --device cpu").lstrip(": ")
    found = gpus.gpus()
    return "cuda", found[0].name if found else "the first GPU"


def check_device(device: str) -> None:
    """Raise DeviceError, in one line that says what to do, unless arrays can be put on `device`."""
    if device != "cpu":
        _cuda(device)


def cuda_module(device: str) -> ArrayModule:
    """CuPy, for a CUDA device that is here. Raises DeviceError as check_device."""
    return _cuda(device)[0]


def compute_capability(device: str) -> int:
    """What a CUDA device can do: 80 is an A100, 90 an H100 or H200. Raises DeviceError as check_device."""
    cupy, index = _cuda(device)
    return int(cupy.cuda.Device(index).compute_capability)


def _cuda(device: str) -> tuple[ArrayModule, int]:
    name, _, index = device.partition(":")
    if name != "cuda" or not (index.isdecimal() or device == "cuda"):
        raise DeviceError(f"device {device!r} is unknown: use auto, cpu, cuda, or cuda:N")
    try:
        import cupy
    except ImportError:
        raise DeviceError(f"device {device!r} needs CuPy: pip install 'nanograd[cuda13]' (or cuda12)") from None
    if not cupy.cuda.is_available():
        why = gpus.why_none(cupy.cuda.runtime.runtimeGetVersion() // 1000)
        raise DeviceError(f"device {device!r}: {why}; or use --device cpu")
    count = cupy.cuda.runtime.getDeviceCount()
    if int(index or 0) >= count:
        raise DeviceError(f"device {device!r}: this machine has {count} GPU(s), numbered from 0")
    return cupy, int(index or 0)
