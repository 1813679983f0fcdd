"""Floor 3. Kernels on the CPU: a .cu file as C++ (nk_emu.h), each CUDA thread a fiber, under a schedule of our choice.

For tests: it shows what is wrong with a kernel, in any order of threads that a device allows, and takes its time.
"""

import ctypes
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nanograd.kernels.cuda import sources
from nanograd.kernels.cuda.sources import digest, kept, source_of

# Kernels read one piece of memory by several types; and products must not be contracted differently on each CPU.
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-DNK_EMU", "-fno-strict-aliasing", "-ffp-contract=off", "-x", "c++")
ORDERS = ("ascending", "descending", "random")


class EmulationError(RuntimeError):
    """A kernel that did what a device forbids, or that was handed other arguments than it takes."""


class Schedule(NamedTuple):
    """Who runs when. skew: one warp as far ahead as it can; eager: asynchronous copies land at once, not late."""

    order: str = "ascending"
    seed: int = 0
    eager: bool = False
    skew: bool = False

    def __str__(self) -> str:
        return "-".join(["skew"] * self.skew + [self.order] + ["eager"] * self.eager)


SCHEDULES = (
    *(Schedule(order, seed) for seed, order in enumerate(ORDERS)),
    *(Schedule(order, seed, eager=True, skew=True) for seed, order in enumerate(ORDERS)),
)


class Emulator:
    """A launcher (see launch.register) that runs each kernel to its end, under one schedule.

    flags  more of the compiler's, such as -fsanitize=address
    """

    def __init__(self, schedule: Schedule = SCHEDULES[0], *, flags: tuple[str, ...] = ()) -> None:
        self.schedule, self.flags = schedule, flags

    def __call__(
        self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...], shared: int
    ) -> None:
        """Raises EmulationError, in one line, for what a device would not forgive."""
        self.run(source_of(kernel), kernel, grid, block, arguments, shared)

    def run(self, source: Path, kernel: str, grid: Any, block: Any, arguments: Any, shared: int = 0) -> None:
        """The same for a kernel of any file; `grid` and `block` are triples."""
        library = load(source, self.flags)
        signature = getattr(library, f"nk_signature_{kernel}")
        signature.restype = ctypes.c_char_p
        values = _values(kernel, signature().decode().split(), arguments)
        order, seed, eager, skew = self.schedule
        how = _Launch(grid, block, ORDERS.index(order), seed, eager, skew, shared)
        function = getattr(library, f"nk_launch_{kernel}")
        function.restype = ctypes.c_char_p
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        if error := function(ctypes.byref(how), pointers).decode():
            raise EmulationError(f"{kernel}: {error}")


class _Launch(ctypes.Structure):
    """nk::Launch in nk_emu.h."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("order", ctypes.c_uint),
        ("seed", ctypes.c_uint),
        ("eager", ctypes.c_uint),
        ("skew", ctypes.c_uint),
        ("shared", ctypes.c_uint64),
    )


def _values(kernel: str, parameters: list[str], arguments: tuple[Any, ...]) -> list[Any]:
    """Arguments as C values, each of the parameter's own type: the device would take the bits of any other."""
    found = [_type_of(x) for x in arguments]
    if len(found) != len(parameters) or any(
        f != p and not (f == "None" and p.endswith("*")) for f, p in zip(found, parameters, strict=False)
    ):
        raise EmulationError(f"{kernel} takes ({', '.join(parameters)}), not ({', '.join(found)})")
    return [_value(x, parameter) for x, parameter in zip(arguments, parameters, strict=True)]


def _type_of(x: Any) -> str:
    """'float32*' for an array, 'int32' for a Python int, 'float32' for a float, a NumPy scalar's own name."""
    if isinstance(x, np.void):
        return f"void{8 * x.nbytes}"
    if hasattr(x, "shape") and not isinstance(x, np.generic):
        return f"{x.dtype.name}*"
    for kind, name in ((int, "int32"), (float, "float32"), (type(None), "None")):  # NumPy's float64 is a float
        if isinstance(x, kind):
            return name
    return str(getattr(x, "dtype", type(x).__name__))


def _value(x: Any, parameter: str) -> Any:
    if parameter.endswith("*"):
        return ctypes.c_void_p(None if x is None else x.data.ptr)
    if isinstance(x, np.void):
        return ctypes.create_string_buffer(x.tobytes(), x.nbytes)
    return np.ctypeslib.as_ctypes_type(np.dtype(parameter))(x.item() if isinstance(x, np.generic) else x)


@functools.cache
def load(source: Path, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The file's kernels as a library, compiled if that was not done before. Raises EmulationError."""
    compiler = find_compiler()
    name = f"{source.stem}-emulated-{digest(source, *compiler, *FLAGS, *flags)}.so"
    command = [*compiler, *FLAGS, *flags, f"-I{sources.FOLDER}"]
    return ctypes.CDLL(str(kept(name, lambda: _compile(source, command))))


def _compile(source: Path, command: list[str]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "kernels.so"
        done = subprocess.run([*command, str(source), "-o", str(out)], capture_output=True, text=True)
        if done.returncode:
            raise EmulationError(f"{' '.join(command)} {source} failed:\n{done.stderr}")
        return out.read_bytes()


@functools.cache
def find_compiler() -> list[str]:
    """A C++ compiler: CXX, g++, clang++ or the `ziglang` package's. Raises EmulationError where there is none."""
    for name in filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++")):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++"]
    raise EmulationError("emulating CUDA kernels needs a C++ compiler: install g++, or pip install ziglang")
