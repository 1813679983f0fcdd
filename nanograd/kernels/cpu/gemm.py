"""The matrix product: out = [out +] A B [+ bias] [+ residual] for float32 arrays, in float32 or in bf16 pairs.

Chapter by chapter: avx512.py (the vocabulary), micro_kernel.py (a tile in registers), packing.py (operands in the
order in which they are read), blocking.py (loops that fit the caches, threads), and here the public door. Where the CPU
has no AVX-512, every product is BLAS's.
"""

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numba import get_num_threads

from nanograd.backend import Array, describe
from nanograd.kernels.cpu.blocking import Grid, multiply_alone, multiply_together, pack_together
from nanograd.kernels.cpu.cpu_features import has_avx512, has_bf16
from nanograd.kernels.cpu.micro_kernel import TILE_COLUMNS, TILE_ROWS
from nanograd.kernels.cpu.packing import BLOCK_SIZE, Operand, panel_size
from nanograd.kernels.cpu.support import aligned_empty

Precision: TypeAlias = Literal["float32", "bf16"]

_FEW_ROWS = {"float32": 16, "bf16": 4}  # up to here packing B takes longer than all the rest; BLAS goes without
SMALL = 1_000_000  # multiplications that take as long as starting a parallel region
LANE_TYPES: dict[str, Any] = {"float32": np.float32, "bf16": np.uint32}
_precision: Precision = "float32"
_workspace = threading.local()


class Prepacked(NamedTuple):
    """A right operand in the micro-kernel's order, for several products with the same one (see `prepack`)."""

    matrix: Array  # (K, N), as it was
    panels: Array | None  # None where BLAS will do the product
    precision: Precision


def check_precision(name: str) -> None:
    """Raise ValueError, in one line that says what to do, unless products can be computed in this precision here."""
    if name not in LANE_TYPES:
        raise ValueError(f"matmul precision {name!r} is unknown: use float32 or bf16")
    if name == "bf16" and not has_bf16():
        raise ValueError(
            "matmul precision bf16 needs a CPU with AVX-512 BF16 (AMD Zen 4, Intel Cooper Lake or later)"
            " and numba 0.62; use float32"
        )


def matmul_precision() -> Precision:
    """What `product` computes in if it is not told."""
    return _precision


def set_matmul_precision(name: Precision) -> None:
    """Choose for the whole process: float32, or bf16 operands with float32 sums. Raises as check_precision."""
    global _precision
    check_precision(name)
    _precision = name


@contextlib.contextmanager
def precision_of(name: Precision) -> Iterator[None]:
    """Choose inside a block."""
    before = _precision
    set_matmul_precision(name)
    try:
        yield
    finally:
        set_matmul_precision(before)


def product(
    a: Array,
    b: Array | Prepacked,
    out: Array,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    accumulate: bool = False,
    bias: Array | None = None,
    residual: Array | None = None,
    precision: Precision | None = None,
) -> Array:
    """out = [out +] op(a) op(b) [+ bias] [+ residual]; returns out. Everything is float32.

    a          (M, K), or (K, M) with transpose_a; any strides: a transposed view is read as it lies
    b          (K, N), or (N, K) with transpose_b, or what `prepack` made of it
    out        (M, N), C-contiguous; it may be the residual, but overlap neither a nor b
    bias       (N,) is added to every row; residual (M, N) is added as it is
    precision  "float32", "bf16" (a and b rounded to 8 bits, relative error 2⁻⁸ each at most; sums in float32), or None
               for `matmul_precision()`. A handful of rows: float32, by BLAS.
    The result does not depend on Numba's number of threads. Raises ValueError for shapes and layouts that don't fit.
    """
    left, right = a.T if transpose_a else a, _right(b, transpose_b)
    precision, panels = (b.precision, b.panels) if isinstance(b, Prepacked) else (precision or _precision, None)
    _check(left, right, out, bias, residual, precision)
    if accumulate and residual is not None:
        out += residual  # the kernel has room for two summands
        residual = None
    summands = [
        x if x is out else _apart(x, out) for x in (out if accumulate else None, bias, residual) if x is not None
    ]
    if _by_our_own(left, right, precision):
        _multiply(left, right, panels, out, summands, LANE_TYPES[precision])
    else:
        _multiply_by_blas(left, right, out, summands)
    return out


def prepack(b: Array, *, transpose: bool = False, precision: Precision | None = None) -> Prepacked:
    """Pack a right operand (K, N), or (N, K) with transpose, for `product`: worth it from the second product on."""
    precision = precision or _precision
    check_precision(precision)
    matrix = _right(b, transpose)
    if not has_avx512() or 0 in matrix.shape:
        return Prepacked(matrix, None, precision)
    _kept, operand = _as_it_lies(matrix)  # `_kept` keeps the memory while its address is used
    lanes = LANE_TYPES[precision]
    panels = aligned_empty((panels_size(matrix.shape, lanes),), lanes)
    pack_together(operand, *matrix.shape, panels, get_num_threads())
    return Prepacked(matrix, panels, precision)


def _right(b: Array | Prepacked, transpose: bool) -> Array:
    if isinstance(b, Prepacked):
        return b.matrix
    return b.T if transpose else b


def _check(a: Array, b: Array, out: Array, bias: Array | None, residual: Array | None, precision: str) -> None:
    """Raise ValueError unless the operands fit together."""
    fits = a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] and out.shape == (len(a), b.shape[1])
    fits = fits and (bias is None or bias.shape == out.shape[1:]) and (residual is None or residual.shape == out.shape)
    operands = [x for x in (a, b, out, bias, residual) if x is not None]
    if not fits or any(x.dtype != np.float32 for x in operands):
        raise ValueError(f"product: {', '.join(map(describe, operands))} do not fit: (M, K) (K, N) → (M, N) in float32")
    if not (out.flags.carray and not np.may_share_memory(out, a) and not np.may_share_memory(out, b)):
        raise ValueError("product: out must be C-contiguous, writeable and apart from the operands")
    if precision != "float32":
        check_precision(precision)


def _apart(x: Array, out: Array) -> Array:
    """x itself if it is contiguous and `out` may be written while it is read; else a copy."""
    return x.copy() if np.may_share_memory(x, out) else np.ascontiguousarray(x)


def _by_our_own(a: Array, b: Array, precision: Precision) -> bool:
    """The rule: everything but a handful of rows, where the CPU has the registers (measured: benchmarks/gemm.py)."""
    return has_avx512() and len(a) > _FEW_ROWS[precision] and b.size > 0


def _multiply_by_blas(a: Array, b: Array, out: Array, summands: list[Array]) -> None:
    """NumPy's product has no beta: to add to `out` it needs a temporary."""
    if any(x is out for x in summands):
        out += a @ b
    else:
        np.matmul(a, b, out=out)
    for x in summands:
        if x is not out:
            out += x


def _multiply(
    a: Array, b: Array, panels: Array | None, out: Array, summands: list[Array], lanes: Any, grid: Grid | None = None
) -> None:
    """The compiled product: gives it addresses for arrays, and a workspace."""
    (M, K), N = a.shape, b.shape[1]
    grid = grid or grid_of(1 if M * K * N < SMALL else get_num_threads(), M, N)
    a, left = _as_it_lies(a)
    b, right = _as_it_lies(b)
    packed, parts = panels is not None, grid[0] * grid[1]
    if panels is None:
        panels = _workspace_of("panels", panels_size((K, N), lanes), lanes)
    blocks = _workspace_of("blocks", parts * BLOCK_SIZE, lanes)[: parts * BLOCK_SIZE].reshape(parts, BLOCK_SIZE)
    to = (out.ctypes.data, N)
    tiles = [(x.ctypes.data, N if x.ndim == 2 else 0, 1) for x in summands] + [(*to, 0)] * (2 - len(summands))
    multiply = multiply_alone if parts == 1 else multiply_together
    multiply(left, right, packed, panels, blocks, (M, K, N), grid, to, *tiles)


def _as_it_lies(x: Array) -> tuple[Array, Operand]:
    """x for compiled code, in the orientation in which it lies in memory; a copy, where neither axis is dense."""
    for transposed in (False, True):
        rows, columns = x.strides[::-1] if transposed else x.strides
        if columns == 4 and rows >= 0 and rows % 4 == 0 and x.flags.aligned:
            return x, (x.ctypes.data, rows // 4, int(transposed))
    copy = np.ascontiguousarray(x)
    return copy, (copy.ctypes.data, x.shape[1], 0)


@functools.lru_cache(maxsize=1024)
def grid_of(threads: int, M: int, N: int) -> Grid:
    """(bands of rows, bands of columns) for the threads: the cut whose largest part is smallest, in whole tiles."""
    tiles, panels = -(-M // TILE_ROWS), -(-N // TILE_COLUMNS)
    cuts = [(rows, threads // rows) for rows in range(threads, 0, -1) if threads % rows == 0]
    return min(cuts, key=lambda cut: -(-tiles // cut[0]) * -(-panels // cut[1]))


def panels_size(shape: tuple[int, int], lanes: Any) -> int:
    """Lanes of a packed right operand (K, N)."""
    K, N = shape
    return -(-N // TILE_COLUMNS) * int(panel_size(K, 1 if lanes is np.float32 else 2))


def _workspace_of(name: str, size: int, lanes: Any) -> Array:
    """Memory that this Python thread's products use again and again: fresh pages would cost as much as the packing."""
    held, key = _workspace.__dict__, f"{name} {lanes.__name__}"
    if (found := held.get(key)) is None or found.size < size:
        held[key] = found = aligned_empty((size,), lanes)
    return found
