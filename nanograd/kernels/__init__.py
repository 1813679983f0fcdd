"""Floor 3. Faster twins of the formulas in nanograd/ops, under the same file names: cpu/ in Numba.

Importing nanograd loads none of this. `load()` does, and from then on operations on float32 arrays run the twins where
they can. The first process on a machine compiles them, for about half a minute; the compiled code is kept on disk.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

from nanograd import backend


def wanted() -> bool:
    """False if NANOGRAD_KERNELS=0 in the environment keeps all twins off."""
    return os.environ.get("NANOGRAD_KERNELS") != "0"


def check_matmul_precision(name: str, device: str) -> None:
    """Raise ValueError, in one line that says what to do, unless `device` can multiply matrices in this precision."""
    if name == "bf16" and device != "cpu":
        raise ValueError(f"matmul precision bf16 is for the CPU, not for device {device!r}: use float32")
    if name == "bf16" and not wanted():
        raise ValueError("matmul precision bf16 needs the kernels, but NANOGRAD_KERNELS=0 keeps them off: use float32")
    if name != "float32":
        from nanograd.kernels.cpu.gemm import check_precision

        check_precision(name)


def load(matmul_precision: Literal["float32", "bf16"] | None = None) -> None:
    """Import the twins and switch them on, unless NANOGRAD_KERNELS=0 says otherwise.

    matmul_precision  what products compute in from now on; None leaves that as it is. Raises ValueError for bf16 where
    the CPU lacks it.
    """
    from nanograd.kernels.cpu import (
        activation,
        attention,
        dropout,
        gemm,
        indexing,
        loss,
        matrix,
        mlp,
        normalization,
        optim,
        rotary,
        softmax,
    )

    if matmul_precision is not None:
        gemm.set_matmul_precision(matmul_precision)
    backend.use_kernels(True)


def cache_folder() -> Path:
    """Where compiled code is kept, under a name that changes with any of the sources.

    Numba itself compares a kernel's own file only: a change in a file that the kernel calls would go unseen.
    """
    import platformdirs

    sources = b"".join(path.read_bytes() for path in sorted((Path(__file__).parent / "cpu").glob("*.py")))
    name = f"kernels-{hashlib.sha256(sources).hexdigest()[:16]}"
    return Path(platformdirs.user_cache_dir("nanograd", appauthor=False)) / name


def compile_elsewhere(settings: str, matmul_precision: str) -> "subprocess.Popen[bytes] | None":
    """Start compiling in another process what a run needs, and return it; None if that was done before.

    settings  JSON of a DecoderLMConfig. Wait for the process before the first step: code it has finished is read from
    disk, so the seconds it takes are hidden behind whatever happens in between.
    """
    if _finished(matmul_precision).exists():
        return None
    command = [sys.executable, "-m", "nanograd.warm_up", settings, matmul_precision]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def note_compiled(matmul_precision: str) -> None:
    """Leave a mark for `compile_elsewhere`: each precision has products of its own, and half of them are not enough."""
    with contextlib.suppress(OSError):  # then Numba could not keep its code here either
        _finished(matmul_precision).touch()


def _finished(matmul_precision: str) -> Path:
    return cache_folder() / f"finished-{matmul_precision}"
