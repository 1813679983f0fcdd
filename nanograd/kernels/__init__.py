"""Floor 3. Faster twins of the formulas in nanograd/ops, under the same file names: cpu/ in Numba.

Importing nanograd loads none of this. `load()` does, and from then on operations on float32 arrays run the twins where
they can. The first run on a machine compiles them (compilation.py); the compiled code is kept on disk.
"""

import importlib
from typing import Literal

from nanograd import backend
from nanograd.kernels.compilation import PARTS, compile_elsewhere

__all__ = ["check_attention_kernel", "check_matmul_precision", "compile_elsewhere", "load"]


def check_matmul_precision(name: str, device: str) -> None:
    """Raise ValueError, in one line that says what to do, unless `device` can multiply matrices in this precision."""
    if name == "float32":
        return
    if not backend.kernels_allowed():
        raise ValueError(f"matmul precision {name} needs the kernels, which the environment keeps off: use float32")
    if device != "cpu":
        from nanograd.kernels.cuda import cublaslt

        cublaslt.check_precision(name, backend.compute_capability(device))
        return
    if name == "tf32":
        raise ValueError("matmul precision tf32 is for CUDA devices: on the CPU use float32, or bf16")
    from nanograd.kernels.cpu.gemm import check_precision

    check_precision(name)


def check_attention_kernel(name: str, device: str) -> None:
    """Raise ValueError, in one line that says what to do, unless `device` can have attention done so."""
    if name == "own":
        return
    if device == "cpu" or not backend.kernels_allowed():
        raise ValueError("--attention-kernel cudnn is for CUDA devices, with kernels: leave it out")
    from nanograd.kernels.cuda import cudnn_attention

    cudnn_attention.check_installed()


def load(
    matmul_precision: Literal["float32", "tf32", "bf16"] | None = None,
    *,
    part: str | None = None,
    device: str = "cpu",
    attention_kernel: Literal["own", "cudnn"] = "own",
) -> None:
    """Import the twins for `device` and switch them on, unless the environment says otherwise (kernels_allowed).

    matmul_precision  what products compute in from now on; None leaves that as it is
    part              one of compilation.PARTS: only those of the CPU's twins, for a process that compiles no others
    attention_kernel  on a CUDA device: our own, or cuDNN's where it knows what is asked for
    Raises ValueError for a precision or a device that is not here, and for a CUDA device without cuBLASLt.
    """
    if not backend.kernels_allowed():
        backend.use_kernels(False)
        return
    if device != "cpu":
        _load_cuda(device, matmul_precision, attention_kernel)
        return
    for name in PARTS[part] if part else [name for names in PARTS.values() for name in names]:
        importlib.import_module(f"nanograd.kernels.cpu.{name}")
    if matmul_precision is not None:
        from nanograd.kernels.cpu import gemm

        check_matmul_precision(matmul_precision, device)
        gemm.set_matmul_precision("bf16" if matmul_precision == "bf16" else "float32")
    backend.use_kernels(True)


def _load_cuda(
    device: str, matmul_precision: Literal["float32", "tf32", "bf16"] | None, attention_kernel: Literal["own", "cudnn"]
) -> None:
    from nanograd.kernels.cuda import cublaslt, cudnn_attention, launch

    xp = backend.cuda_module(device)
    cublaslt.check_installed(xp)
    launch.register_twins(xp)
    cudnn_attention.use(xp, attention_kernel == "cudnn")
    if matmul_precision is not None:
        check_matmul_precision(matmul_precision, device)
        cublaslt.set_matmul_precision(matmul_precision)
    backend.use_kernels(True)
