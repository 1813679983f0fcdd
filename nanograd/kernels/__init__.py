"""Floor 3. Faster twins of the formulas in nanograd/ops, under the same file names: cpu/ in Numba.

Importing nanograd loads none of this. `load()` does, and from then on operations on float32 arrays run the twins where
they can. The first run on a machine compiles them (compilation.py); the compiled code is kept on disk.
"""

import importlib
from typing import Literal

from nanograd import backend
from nanograd.kernels.compilation import PARTS, compile_elsewhere

__all__ = ["check_matmul_precision", "compile_elsewhere", "load"]


def check_matmul_precision(name: str, device: str) -> None:
    """Raise ValueError, in one line that says what to do, unless `device` can multiply matrices in this precision."""
    if name == "bf16" and device != "cpu":
        raise ValueError(f"matmul precision bf16 is for the CPU, not for device {device!r}: use float32")
    if name == "bf16" and not backend.kernels_allowed():
        raise ValueError("matmul precision bf16 needs the kernels, which the environment keeps off: use float32")
    if name != "float32":
        from nanograd.kernels.cpu.gemm import check_precision

        check_precision(name)


def load(matmul_precision: Literal["float32", "bf16"] | None = None, *, part: str | None = None) -> None:
    """Import the twins and switch them on, unless the environment says otherwise (backend.kernels_allowed).

    matmul_precision  what products compute in from now on; None leaves that as it is. Raises ValueError for bf16 where
    the CPU lacks it.   part  one of compilation.PARTS: only those twins, for a process that compiles no others
    """
    if not backend.kernels_allowed():
        backend.use_kernels(False)
        return
    for name in PARTS[part] if part else [name for names in PARTS.values() for name in names]:
        importlib.import_module(f"nanograd.kernels.cpu.{name}")
    if matmul_precision is not None:
        from nanograd.kernels.cpu import gemm

        gemm.set_matmul_precision(matmul_precision)
    backend.use_kernels(True)
