"""Floor 5. What of this machine decides how fast nanograd is here: each finding a line, with a command where one helps.

Nothing here compiles, downloads, or writes. What cannot be found out is said, and is no error.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from nanograd import backend, gpus

CUDA_PACKAGES = {  # by the names of the wheels; the first that is there counts
    "CuPy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "NVRTC": ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"),
    "cuBLASLt": ("nvidia-cublas", "nvidia-cublas-cu12"),
    "cuDNN": ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"),
    "cuDNN frontend": ("nvidia-cudnn-frontend",),
}
WITHOUT = {  # what a machine with a GPU loses
    "CuPy": "no model runs on the GPU",
    "NVRTC": "no CUDA kernels, unless a CUDA toolkit has it: the formulas run one by one",
    "cuBLASLt": "slower matrix products, unless a CUDA toolkit has it",
}
TIGHT = 2e9  # bytes free on a disk: a few checkpoints of a small model


class Finding(msgspec.Struct, frozen=True):
    """One line.

    missing  what this costs, if anything; mend: the command that helps
    """

    section: str
    name: str
    value: str
    missing: str = ""
    mend: str = ""


def all_findings() -> list[Finding]:
    """Every line, section by section. Never raises: a question that fails is answered by its error."""
    found: list[Finding] = []
    for section, ask in SECTIONS.items():
        try:
            found += ask()
        except Exception as error:  # a broken driver or library is what this is here to show
            found.append(Finding(section, "not known", f"{type(error).__name__}: {' '.join(str(error).split())}"))
    return found


def _devices() -> Iterator[Finding]:
    from nanograd.kernels.cpu import cpu_features

    cores, usable = os.cpu_count() or 1, _usable_cores()
    yield Finding("devices", "CPU", f"{_cpu_name()}, {usable} of {cores} cores")
    wanted = ("avx2", "avx512f", "avx512bf16", "neon")
    names = ", ".join(name for name in wanted if name in cpu_features.features()) or "none of AVX2, AVX-512, NEON"
    products = "our own products" if cpu_features.has_avx512() else "products by BLAS"
    bf16 = ", bf16 products" if cpu_features.has_bf16() else ", no bf16 products"
    yield Finding("devices", "CPU features", f"{names}: {products}{bf16}")
    found = gpus.gpus()
    for number, gpu in enumerate(found):
        yield _gpu(number, gpu)
    yield _driver(bool(found))


def _gpu(number: int, gpu: gpus.Gpu) -> Finding:
    value = f"{gpu.name}, sm_{gpu.capability}, {gpu.memory / 2**30:,.0f} GiB"
    if gpu.capability < gpus.OLDEST:
        return Finding("devices", f"cuda:{number}", value, "too old for the CUDA kernels, which need sm_80 or newer")
    try:
        backend.check_device(f"cuda:{number}")
    except backend.DeviceError as error:
        return Finding("devices", f"cuda:{number}", value, str(error), _install_for_cuda())
    return Finding("devices", f"cuda:{number}", value)


def _driver(has_gpus: bool) -> Finding:
    version = gpus.driver_version()
    if version is None:
        return Finding("devices", "NVIDIA driver", "none: models run on the CPU")
    runs = f"runs CUDA {version[0]}.{version[1]}" + ("" if has_gpus else ", finds no GPU")
    if version[0] < 12:
        return Finding("devices", "NVIDIA driver", runs, "too old for CuPy", "update the driver to 525 or newer")
    return Finding("devices", "NVIDIA driver", runs)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _libraries() -> Iterator[Finding]:
    yield Finding("libraries", "Python", f"{platform.python_version()}, {sys.platform} {platform.machine()}")
    for name in ("nanograd", "numpy", "numba", "ml_dtypes"):
        yield Finding("libraries", name, _version(name) or "not installed as a package")
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    yield Finding("libraries", "BLAS", f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip())
    matters = bool(gpus.gpus())
    for name, packages in CUDA_PACKAGES.items():
        version = next((f"{v} ({package})" for package in packages if (v := _version(package))), None)
        if version is None and matters and name in WITHOUT:
            yield Finding("libraries", name, "not installed", WITHOUT[name], _install_for_cuda())
        else:
            yield Finding("libraries", name, version or "not installed")


def _install_for_cuda() -> str:
    """The extra with all that the driver can use."""
    version = gpus.driver_version()
    return f"pip install 'nanograd[cuda{12 if version and version[0] == 12 else 13}]'"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _threads() -> Iterator[Finding]:
    import numba

    usable, threads = _usable_cores(), int(numba.get_num_threads())
    if threads < usable:
        idle = f"{usable - threads} of {usable} cores stay idle", f"export NUMBA_NUM_THREADS={usable}"
        yield Finding("threads", "kernels (Numba)", str(threads), *idle)
    elif threads > usable:
        waiting = "more threads than cores wait for each other", f"export NUMBA_NUM_THREADS={usable}"
        yield Finding("threads", "kernels (Numba)", f"{threads} on {usable} cores", *waiting)
    else:
        yield Finding("threads", "kernels (Numba)", str(threads))
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")
    given = [f"{name}={os.environ[name]}" for name in variables if name in os.environ]
    yield Finding("threads", "environment", ", ".join(given) or "nothing set")


def _kernels() -> Iterator[Finding]:
    from nanograd.kernels import compilation
    from nanograd.kernels.cuda import sources

    for variable, unset in (("NANOGRAD_KERNELS", "0"), ("NUMBA_DISABLE_JIT", "1")):
        if os.environ.get(variable) == unset:
            off = f"off: {variable}={unset}"
            yield Finding("kernels", "compiled twins", off, "everything runs by the formulas", f"unset {variable}")
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    for name, folder, ending in (
        ("for the CPU", Path(chosen) if chosen else compilation.cache_folder(), "*.nbc"),
        ("for CUDA", sources.cache_folder(), "*.cubin"),
    ):
        yield _compiled(name, folder, ending)


def _compiled(name: str, folder: Path, ending: str) -> Finding:
    """How many compiled kernels lie there."""
    files = list(folder.rglob(ending)) if folder.is_dir() else []
    if files:
        return Finding("kernels", name, f"{len(files)} in {folder}")
    needed = name == "for the CPU" or bool(gpus.gpus())
    cost = ("the first run compiles them", "python -m nanograd.train --steps 1") if needed else ("", "")
    return Finding("kernels", name, f"none yet in {folder}", *cost)


def _disk() -> Iterator[Finding]:
    import platformdirs

    cache = Path(platformdirs.user_cache_dir("nanograd", appauthor=False))
    size = sum(_size(path) for path in cache.rglob("*")) if cache.is_dir() else 0
    elsewhere = "python -m nanograd.train --cache /another/disk"
    yield _room("cache", cache, f", holds {size / 1e6:,.0f} MB", f"rm -r {cache}", elsewhere)
    elsewhere = "python -m nanograd.train --out /another/disk/run"
    yield _room("runs", Path("runs").absolute(), "", elsewhere, elsewhere)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # gone by now
        return 0


def _room(name: str, folder: Path, more: str, mend: str, elsewhere: str) -> Finding:
    """What is free; `mend` makes room, `elsewhere` goes where one may write."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    value = f"{folder}: {free / 1e9:,.1f} GB free{more}"
    if not os.access(there, os.W_OK):
        return Finding("disk", name, f"{value}, can't be written", "nothing can be kept there", elsewhere)
    if free < TIGHT:
        missing = f"little room: a run keeps several checkpoints, {TIGHT / 1e9:.0f} GB are soon full"
        return Finding("disk", name, value, missing, mend)
    return Finding("disk", name, value)


SECTIONS: dict[str, Callable[[], Iterator[Finding]]] = {
    "devices": _devices,
    "libraries": _libraries,
    "threads": _threads,
    "kernels": _kernels,
    "disk": _disk,
}
