"""How these kernels are compiled and kept: as the tokenizer's are, in a folder of their own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from pre_process.compiled_code import cache_folder, numba_cache_in, writable
from pre_process.tokenizer import kernels as tokenizer_kernels

SERIAL: dict[str, Any] = {"error_model": "numpy", "nogil": True}  # nogil: threads of Python run kernels side by side

_njit: Any = numba.njit  # its stubs leave options out


def inline(function: Callable[..., Any]) -> Any:
    """Compile `function` into the kernels that call it. It allocates nothing: references to arrays go uncounted."""
    return _njit(**SERIAL, _nrt=False, forceinline=True)(function)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` when it is first called, and keep the code on disk."""
    sources = Path(__file__).parent, Path(tokenizer_kernels.__file__).parent
    with numba_cache_in(writable(cache_folder("word2vec", *sources))):
        return _njit(**SERIAL, cache=True, no_cfunc_wrapper=True)(function)
