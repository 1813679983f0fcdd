"""Floor 3. NVRTC, NVIDIA's compiler as a library: CUDA C++ in, machine code for one architecture out.

It needs neither a GPU nor a driver nor any CUDA header. CuPy's own way to it needs a device, and cannot ask for
sm_90a; so these are its eight functions by ctypes.   Source: NVRTC documentation, CUDA 13.0, section 3
"""

import ctypes
import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nanograd.gpus import driver_version
from nanograd.kernels.cuda.sources import FOLDER

# Standard arithmetic (denormals kept, correctly rounded divisions and roots); where a kernel wants the fast form, it
# says so by name. So the emulator computes what the device does.
ARITHMETIC = ("--ftz=false", "--prec-div=true", "--prec-sqrt=true", "--fmad=true")
OPTIONS = ("--std=c++17", "--device-as-default-execution-space", *ARITHMETIC, "--ptxas-options=-v")
HOW_TO_GET_IT = "pip install nvidia-cuda-nvrtc (CUDA 13) or nvidia-cuda-nvrtc-cu12"


class CompileError(ValueError):
    """A kernel that NVRTC refuses, or no NVRTC."""


class Compiled(NamedTuple):
    """Machine code, and what NVRTC and ptxas had to say: warnings, registers, spills."""

    cubin: bytes
    log: str


def compile_cubin(source: Path, arch: str) -> Compiled:
    """`source` for `arch` ('sm_80', 'sm_90a', …). Raises CompileError with the compiler's own words."""
    library, program = load(), ctypes.c_void_p()
    text, name = source.read_bytes(), source.name.encode()
    _check(library.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None))
    try:
        options = [option.encode() for option in (f"--gpu-architecture={arch}", f"--include-path={FOLDER}", *OPTIONS)]
        failed = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = _read(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        if failed:
            raise CompileError(f"{source.name} for {arch}: {library.nvrtcGetErrorString(failed).decode()}\n{log}")
        return Compiled(_read(program, "CUBIN"), log)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def version() -> tuple[int, int]:
    """NVRTC's version, (13, 0) say. Raises CompileError where there is none."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(load().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


def supported() -> list[int]:
    """The architectures that this NVRTC compiles for, as numbers: [75, 80, …]."""
    count = ctypes.c_int()
    _check(load().nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    numbers = (ctypes.c_int * count.value)()
    _check(load().nvrtcGetSupportedArchs(numbers))
    return list(numbers)


@functools.cache
def load() -> Any:
    """The library. Raises CompileError, which says how to get it."""
    for path in _candidates():
        try:
            for part in sorted(Path(path).parent.glob("libnvrtc-builtins.so.*")):  # which it would not find by itself
                ctypes.CDLL(str(part))
            library = ctypes.CDLL(path)
        except OSError:
            continue
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return library
    raise CompileError(f"compiling CUDA kernels needs NVRTC: {HOW_TO_GET_IT}")


def _candidates() -> Iterator[str]:
    """NVIDIA's wheels, then a CUDA toolkit, then whatever the system's loader finds.

    Newer versions first, but those last that are newer than the driver: it would refuse what they make.
    """
    driver = (driver_version() or (999, 0))[0]
    found = importlib.util.find_spec("nvidia")
    folders = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    toolkit = Path(os.environ.get("CUDA_PATH") or "/usr/local/cuda")
    for folder in [*folders, toolkit / "lib64", toolkit / "lib", toolkit / "bin"]:
        names = [p for p in folder.rglob("*nvrtc*") if re.fullmatch(r"(lib)?nvrtc(64)?[._]?.*\.(so\.\d+|dll)", p.name)]
        suits = {path: (_major(path) <= driver, _major(path)) for path in names if "builtins" not in path.name}
        yield from map(str, sorted(suits, key=lambda path: (suits[path], path), reverse=True))
    yield from ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")


def _major(path: Path) -> int:
    """libnvrtc.so.13 → 13; 0 where the name says nothing, as nvrtc64_120_0.dll"""
    found = re.search(r"\.so\.(\d+)", path.name)
    return int(found[1]) if found else 0


def _read(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(load(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    content = ctypes.create_string_buffer(size.value)
    _check(getattr(load(), f"nvrtcGet{what}")(program, content))
    return content.raw


def _check(failed: int) -> None:
    if failed:
        raise CompileError(f"NVRTC: {load().nvrtcGetErrorString(failed).decode()}")
