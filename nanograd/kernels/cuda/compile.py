"""Floor 3. From .cu files to cubins: machine code for one GPU architecture, made once and kept on disk."""

from pathlib import Path

from nanograd.kernels.cuda import nvrtc
from nanograd.kernels.cuda.sources import digest, kept

OLDEST = 80  # Ampere: bf16, cp.async and mma.m16n8k16


def architecture(capability: int) -> str:
    """What to compile for, for a device of compute capability 8.0 → 80, 9.0 → 90, ….

    The `a` of sm_90a opens what only Hopper has. A device newer than NVRTC gets the newest code that NVRTC makes for
    its generation: it runs there (CUDA's binary compatibility). Raises CompileError where there is none.
    """
    if capability < OLDEST:
        raise nvrtc.CompileError(f"the GPU has compute capability {capability / 10}: the kernels need 8.0 or newer")
    fitting = [n for n in nvrtc.supported() if n // 10 == capability // 10 and n <= capability]
    if not fitting:
        known = ".".join(map(str, nvrtc.version()))
        raise nvrtc.CompileError(f"NVRTC {known} does not know this GPU (sm_{capability}): {nvrtc.HOW_TO_GET_IT}")
    return f"sm_{max(fitting)}a" if max(fitting) == 90 else f"sm_{max(fitting)}"


def cubin(source: Path, arch: str) -> Path:
    """The cubin of `source` for `arch`, from disk if it was compiled before. Raises CompileError."""
    name = f"{source.stem}-{arch}-{digest(source, arch, str(nvrtc.version()), *nvrtc.OPTIONS)}.cubin"
    return kept(name, lambda: nvrtc.compile_cubin(source, arch).cubin)
