"""What the processor can do, asked at run time: it decides which matrix product runs."""

import functools
from typing import Any

import llvmlite.binding as llvm
import numba.core.config

_FIRST_LLVM = 16  # from here on LLVM's bf16 instructions take bfloat vectors, which micro_kernel.py emits


@functools.cache
def features() -> frozenset[str]:
    """LLVM's names of what the code that Numba makes here may use: 'avx2', 'avx512f', 'avx512bf16', …

    NUMBA_CPU_FEATURES and NUMBA_CPU_NAME narrow that down for all of Numba, so they are obeyed.
    """
    config: Any = numba.core.config
    if config.CPU_FEATURES is not None:
        return frozenset(name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+"))
    if config.CPU_NAME is not None:
        return frozenset()
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


def has_avx512() -> bool:
    """Registers of 16 float32 and masks: the float32 micro-kernel can run."""
    return {"avx512f", "avx512bw", "avx512vl"} <= features() and llvm.llvm_version_info[0] >= _FIRST_LLVM


def has_bf16() -> bool:
    """vdpbf16ps, products of bf16 pairs summed in float32 (Intel Cooper Lake, AMD Zen 4, and later)."""
    return has_avx512() and "avx512bf16" in features()
