"""What the CPU kernels share: how they are compiled, how arrays reach them, and arithmetic that LLVM can vectorise.

A kernel hands its rows to all threads, by `for_each` (threads.py) or by Numba's `prange`, which takes twice as long to
compile: each row, or each fixed block of rows, is one thread's work from beginning to end, and what blocks have summed
up is added in their order. So the result does not depend on the number of threads.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import get_num_threads, njit, set_num_threads, types
from numba.extending import intrinsic

from nanograd.backend import Array

# Multiply-adds; sums in vectors, in any order; −0 may become 0. Without "nnan" and "ninf", −∞ and NaN keep their
# meaning; without "arcp" a division is a division, not a product with a reciprocal that may be infinite.
FAST = {"contract", "reassoc", "nsz"}
SERIAL: dict[str, Any] = {
    "fastmath": FAST,
    "error_model": "numpy",
    "nogil": True,
    "cache": True,
    "no_cfunc_wrapper": True,  # nobody calls kernels from C, and the way in from there takes time to compile
}
# For what only other kernels call: no way in from Python, which is a sixth of all compiling. Python calling it crashes.
INNER: dict[str, Any] = {**SERIAL, "no_cpython_wrapper": True}
PARALLEL: dict[str, Any] = {**SERIAL, "parallel": True}

ONE, ZERO = np.float32(1), np.float32(0)  # in a kernel 1 and 1.0 are 64 bits wide, and so is all they touch
# In a tuple for another kernel. To Numba 0 and 1 are types of their own, for which it would compile that kernel again.
INT_0, INT_1 = np.int64(0), np.int64(1)
GRAIN = 1 << 14  # numbers; with less to do, waking another thread takes longer than the work
LINE = 16  # float32 numbers in a cache line, and in the longest vector
BLOCKS = 32  # at most as many partial sums over rows, whatever the number of threads

_FLOAT, _INT = ir.FloatType(), ir.IntType(32)


def takes(*arrays: Array | None) -> bool:
    """Are these arrays (or None) what kernels are compiled for: float32, and not empty?"""
    return all(x is None or (x.dtype == np.float32 and x.size > 0) for x in arrays)


def numbers(x: Array) -> Array:
    """The same numbers as kernels want to see them: contiguous, and of the type that Numba knows as writeable.

    To Numba a read-only array is another type, for which it would compile every kernel again. Kernels never write to
    their inputs, so a view without the mark will do. What is not contiguous is copied.
    """
    if not x.flags.c_contiguous:
        x = np.ascontiguousarray(x)
    return x if x.flags.writeable else np.asarray(_Unmarked(x))


class _Unmarked:
    """Describes the memory of a read-only array as writeable, and keeps it alive."""

    def __init__(self, x: Array) -> None:
        self.owner = x
        self.__array_interface__ = {**x.__array_interface__, "data": (x.ctypes.data, False)}


def rows(x: Array) -> Array:
    """x (…, C) as a matrix (N, C), contiguous and unmarked."""
    return numbers(x).reshape(-1, x.shape[-1])


def flat(x: Array) -> Array:
    """x (…) as (N,), contiguous and unmarked."""
    return numbers(x).reshape(-1)


def aligned_empty(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """np.empty at the beginning of a cache line: whole vectors are then read and written without crossing two lines."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def run(kernel: Any, work: int, *arguments: Any) -> None:
    """kernel(*arguments), which touches `work` numbers: in this thread alone where that is quicker."""
    if work >= GRAIN:
        kernel(*arguments)
        return
    threads = get_num_threads()
    set_num_threads(1)
    try:
        kernel(*arguments)
    finally:
        set_num_threads(threads)


def n_blocks(n: int, at_least: int) -> int:
    """Into how many blocks to cut n rows, so that each has `at_least` so many; the same for any number of threads."""
    return max(1, min(BLOCKS, n // at_least))


@njit(**INNER)
def first(block: int, blocks: int, n: int) -> int:
    """The row at which `block` of `blocks` begins; first(block + 1, …) is where it ends."""
    return n * block // blocks


@njit(**INNER)
def copy_row(y: Array, x: Array) -> None:
    """y = x, both (n,). As y[:] = x Numba would also compile the message for lengths that differ: half a second."""
    for j in range(len(y)):
        y[j] = x[j]


def _exp(typing_context: Any, x: Any) -> Any:
    """eˣ for float32 to 1 ulp, in arithmetic that vectorises (a call of the C library does not).

        x = n ln 2 + r,  |r| ≤ ½ ln 2;   eʳ ≈ 1 + r + r² P(r), P of degree 5;   eˣ = 2ⁿ eʳ

    exp(∞) = ∞ from 88.73 on, exp(−∞) = 0, exp(NaN) = NaN; numbers below 2⁻¹²⁵ are 0, for arithmetic on denormal
    numbers is slow.   P and the two parts of ln 2: Moshier, Cephes, expf.c
    """
    return types.float32(types.float32), _generate_exp


def _generate_exp(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
    lowest, highest = -86.643397, 89.0  # −125 ln 2, and a number whose exponential is ∞ already
    x = arguments[0]
    too_low = b.fcmp_ordered("<", x, _float(lowest))
    x = b.select(too_low, _float(lowest), x)
    x = b.select(b.fcmp_ordered(">", x, _float(highest)), _float(highest), x)
    n, power = _round(b, _multiply_add(b, x, 1.44269504088896341, 0.0))
    r = _multiply_add(b, n, -0.693359375, x)  # exact: this part of ln 2 has nine bits
    r = _multiply_add(b, n, 2.12194440e-4, r)
    p = _float(1.9875691500e-4)
    for k in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1, 1.0, 1.0):
        p = _multiply_add(b, p, r, k)
    # 2ⁿ = 2 · 2ⁿ⁻¹, for 2¹²⁸ is no float32 but 2¹²⁷ is
    bits = b.shl(b.add(power, ir.Constant(_INT, 126)), ir.Constant(_INT, 23))
    y = b.fmul(b.fadd(p, p, flags=("contract",)), b.bitcast(bits, _FLOAT), flags=("contract",))
    return b.select(too_low, _float(0.0), y)


def _round(b: Any, z: Any) -> tuple[Any, Any]:
    """The integer next to z, as a float and as an int: 1.5 · 2²³ + z has it in its last bits, whatever z is.

    A conversion to int would be undefined for NaN. The explicit flags keep "reassoc" from cancelling the constant.
    """
    shift = _float(1.5 * 2**23)
    t = b.fadd(z, shift, flags=("contract",))
    return b.fsub(t, shift, flags=("contract",)), b.sub(b.bitcast(t, _INT), b.bitcast(shift, _INT))


def _multiply_add(b: Any, x: Any, y: Any, z: Any) -> Any:
    """x y + z, one rounding where the processor can"""
    y, z = (_float(value) if isinstance(value, float) else value for value in (y, z))
    return b.fadd(b.fmul(x, y, flags=("contract",)), z, flags=("contract",))


def _float(value: float) -> Any:
    return ir.Constant(_FLOAT, float(np.float32(value)))


def _maximum(typing_context: Any, a: Any, b: Any) -> Any:
    """max(a, b) for float32, NaN if one is NaN: unlike Python's max(a, b), a loop of them vectorises."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        two_to_one = ir.FunctionType(_FLOAT, [_FLOAT, _FLOAT])
        return builder.call(builder.module.declare_intrinsic("llvm.maximum", [_FLOAT], two_to_one), arguments)

    return types.float32(types.float32, types.float32), generate


exp: Any = intrinsic(_exp)  # for use inside kernels
maximum: Any = intrinsic(_maximum)
