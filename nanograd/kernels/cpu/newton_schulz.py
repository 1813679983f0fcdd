"""Many matrices made orthogonal at once, each by one thread. The formula is in nanograd/optim/newton_schulz.py.

The iteration only ever multiplies X from the left by polynomials in A = X Xᵀ. So it can run on that small matrix alone:

    A ← X Xᵀ / ‖X‖²,  Q ← 1;    five times:  P = a + b A + c A²,  Q ← P Q,  A ← P A P;    result  Q X / ‖X‖

Except for the last, all products are of symmetric matrices that commute, so they are symmetric, and their upper
triangle is enough. For a square matrix that is no more arithmetic than the iteration on X with symmetric halves left
out; where X is four times as wide as high (an MLP's) it is half. Always float32: small eigenvalues of A are squares of
small singular values, which bf16 would lose.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numba import get_num_threads, njit

from nanograd.backend import Array
from nanograd.kernels.cpu.blocking import Shape, multiply_part
from nanograd.kernels.cpu.gemm import panels_size
from nanograd.kernels.cpu.micro_kernel import TILE_COLUMNS
from nanograd.kernels.cpu.packing import BLOCK_SIZE, Operand, pack_panels
from nanograd.kernels.cpu.support import INNER, INT_0, INT_1, ONE, SERIAL, ZERO, aligned_empty
from nanograd.kernels.cpu.threads import for_each

BAND = 96  # rows; left of its diagonal block nothing is computed. 8 tiles high, as wide as 3 panels
SHORTEST = np.float32(1e-7)  # a shorter matrix is not made longer than the formula would
Room: TypeAlias = tuple[Array, Array, Array]  # memory for panels of a right operand, a block of a left one, results


def orthogonalize_all(
    flat: Array, shapes: Sequence[tuple[int, int]], coefficients: tuple[float, float, float], steps: int
) -> None:
    """float32 matrices of these shapes, one behind the other in `flat` (n,): each U S Vᵀ becomes U Vᵀ, in place."""
    starts = np.cumsum([0, *(rows * columns for rows, columns in shapes)])
    table = np.array([(start, *shape) for start, shape in zip(starts, shapes, strict=False)], np.int64)
    workers = min(get_num_threads(), len(table))
    alike = {(min(shape), max(shape)) for shape in shapes}
    panels = max(panels_size(of, np.float32) for m, n in alike for of in ((n, m), (m, n), (m, m)))
    results = max(4 * m * m + m * n for m, n in alike)
    room = tuple(aligned_empty((workers, size)) for size in (panels, BLOCK_SIZE, results))
    _orthogonalize_all(workers, flat, table, room, tuple(map(np.float32, coefficients)), steps)


@njit(**SERIAL)
def _orthogonalize_all(workers: int, flat: Array, table: Array, room: Room, numbers: Any, steps: int) -> None:
    for_each(_orthogonalize_share, workers, (flat, table, room, numbers, steps))


@njit(**INNER)
def _orthogonalize_share(worker: int, flat: Array, table: Array, room: Room, numbers: Any, steps: int) -> None:
    """Every so many-th matrix, in memory of its own."""
    mine = (room[0][worker], room[1][worker], room[2][worker])
    for i in range(worker, len(table), len(room[0])):
        start, rows, columns = table[i]
        _orthogonalize(flat[start : start + rows * columns].reshape(rows, columns), mine, numbers, steps)


@njit(**INNER)
def _orthogonalize(x: Array, room: Room, numbers: Any, steps: int) -> None:
    rows, columns = x.shape
    m, n, tall = min(rows, columns), max(rows, columns), rows > columns
    gram, polynomial = _square(room[2], 0, m), _square(room[2], 1, m)
    total, other = _square(room[2], 2, m), _square(room[2], 3, m)
    left, right = (_transposed(x), _operand(x)) if tall else (_operand(x), _transposed(x))
    _symmetric_product(left, right, n, gram, room)
    shrink = _normalize(gram)
    for step in range(steps):
        _symmetric_product(_operand(gram), _operand(gram), m, polynomial, room)
        _evaluate(gram, polynomial, numbers)
        if step == 0:
            total[:] = polynomial
        else:
            _symmetric_product(_operand(polynomial), _operand(total), m, other, room)
            total, other = other, total
        if step < steps - 1:
            _symmetric_product(_operand(polynomial), _operand(gram), m, other, room)
            _symmetric_product(_operand(polynomial), _operand(other), m, gram, room)
    total *= shrink
    result = room[2][4 * m * m : 4 * m * m + m * n].reshape(rows, columns)
    if tall:
        _product(_operand(x), _operand(total), columns, result, room)
    else:
        _product(_operand(total), _operand(x), rows, result, room)
    x[:] = result


@njit(**INNER)
def _square(memory: Array, i: int, m: int) -> Array:
    return memory[i * m * m : (i + 1) * m * m].reshape(m, m)


@njit(**INNER)
def _operand(x: Array) -> Any:
    return np.int64(x.ctypes.data), np.int64(x.shape[1]), INT_0


@njit(**INNER)
def _transposed(x: Array) -> Any:
    return np.int64(x.ctypes.data), np.int64(x.shape[1]), INT_1


@njit(**INNER)
def _product(a: Operand, b: Operand, K: int, out: Array, room: Room) -> None:
    """out = a b"""
    panels, block, _ = room
    shape: Shape = (out.shape[0], K, out.shape[1])
    to = (np.int64(out.ctypes.data), np.int64(out.shape[1]))
    nothing = (to[0], to[1], INT_0)
    pack_panels(b, shape[1], shape[2], panels, 0, 1)
    part = (INT_0, shape[0], INT_0, (shape[2] + TILE_COLUMNS - 1) // TILE_COLUMNS)
    multiply_part(a, panels, block, shape, part, to, nothing, nothing)


@njit(**INNER)
def _symmetric_product(a: Operand, b: Operand, K: int, out: Array, room: Room) -> None:
    """out = a b, of which is known that it is symmetric: what lies left of a band's diagonal block is copied."""
    panels, block, _ = room
    m = len(out)
    shape: Shape = (m, K, m)
    to = (np.int64(out.ctypes.data), np.int64(m))
    nothing = (to[0], to[1], INT_0)
    pack_panels(b, K, m, panels, 0, 1)
    for i in range(0, m, BAND):
        part = (i, min(i + BAND, m), i // TILE_COLUMNS, (m + TILE_COLUMNS - 1) // TILE_COLUMNS)
        multiply_part(a, panels, block, shape, part, to, nothing, nothing)
    for i in range(m):
        for j in range(i):
            out[i, j] = out[j, i]


@njit(**INNER)
def _normalize(gram: Array) -> Any:
    """Divide X Xᵀ by ‖X‖², the sum of its diagonal; returns 1 / ‖X‖."""
    squares = ZERO
    for i in range(len(gram)):
        squares += gram[i, i]
    shrink = ONE / max(np.sqrt(squares), SHORTEST)
    gram *= shrink
    gram *= shrink
    return shrink


@njit(**INNER)
def _evaluate(gram: Array, polynomial: Array, numbers: Any) -> None:
    """polynomial: A² becomes a + b A + c A²"""
    a, b, c = numbers
    for i in range(len(gram)):
        for j in range(len(gram)):
            polynomial[i, j] = polynomial[i, j] * c + gram[i, j] * b
        polynomial[i, i] += a
