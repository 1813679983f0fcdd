"""How the kernels are compiled, and how bytes reach them."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from pre_process.compiled_code import numba_cache_in, writable
from pre_process.tokenizer.kernels import cache_folder

SERIAL: dict[str, Any] = {"error_model": "numpy", "nogil": True}  # nogil: threads of Python run kernels side by side
PADDING = 16  # bytes that must be readable behind a text, for a piece's bytes are fetched eight at a time

_njit: Any = numba.njit  # its stubs leave options out


def helper(function: Callable[..., Any]) -> Any:
    """Compile `function` into the kernels that call it."""
    return _njit(**SERIAL, _nrt=True)(function)


def lean(function: Callable[..., Any]) -> Any:
    """As `helper`, for functions that allocate nothing: Numba's run time, which counts references, stays out of them.

    Counting those of every array that comes and goes takes ten times as long as what a short function does with it. Nor
    is such a function ever called: it becomes part of its caller. A call would pass seven numbers for every array.
    """
    return _njit(**SERIAL, _nrt=False, forceinline=True)(function)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` when it is first called, and keep the code in the tokenizer's own folder."""
    with numba_cache_in(writable(cache_folder())):
        return _njit(**SERIAL, cache=True)(function)


def padded(*texts: bytes) -> np.ndarray:
    """The texts behind each other as writeable uint8, with PADDING zeros at the end.

    To Numba a read-only array is another type, for which it would compile every kernel again.
    """
    buffer = np.zeros(sum(map(len, texts)) + PADDING, np.uint8)
    view, at = memoryview(buffer.data), 0
    for text in texts:
        view[at : at + len(text)] = text
        at += len(text)
    return buffer
