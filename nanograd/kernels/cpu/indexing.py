"""The embedding's gradient, added where it belongs. Twin of nanograd/ops/indexing.py."""

from typing import Any

import numpy as np
from numba import njit

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cpu.support import INNER, LINE, SERIAL, rows, run, takes
from nanograd.kernels.cpu.threads import for_each
from nanograd.ops.indexing import embedding
from nanograd.primitive import Needs
from nanograd.tensor import ADDED

COLUMNS = 4 * LINE  # numbers of a row that one task adds: whole cache lines, so that no two tasks write to one


@njit(**SERIAL)
def _add_rows(ids: Array, dy: Array, dweight: Array) -> None:
    """dweight[ids[i]] += dy[i], i after i.   ids (N,), dy (N, C), dweight (V, C)

    Each task owns some columns of all rows: no two write to the same number, and each number's sum has one order.
    """
    for_each(_add_columns, (dweight.shape[1] + COLUMNS - 1) // COLUMNS, (ids, dy, dweight))


@njit(**INNER)
def _add_columns(task: int, ids: Array, dy: Array, dweight: Array) -> None:
    start, stop = task * COLUMNS, min(dweight.shape[1], (task + 1) * COLUMNS)
    for i in range(len(ids)):
        out, d = dweight[ids[i], start:stop], dy[i, start:stop]
        for j in range(len(d)):
            out[j] += d[j]


def _forward(xp: ArrayModule, weight: Array, ids: Array) -> Any:
    """The formula's own: NumPy copies rows as fast as memory allows."""
    return embedding.formula.forward(xp, weight, ids) if takes(weight) else NotImplemented


def _backward(
    xp: ArrayModule, dy: Array, shape: tuple[int, int], ids: Array, *, needs: Needs, into: tuple[Array | None, ...]
) -> Any:
    """Adds to the weight's gradient if there is one: of 50,257 rows a batch touches some hundreds."""
    there = into[0] is not None and into[0].flags.c_contiguous and into[0].dtype == np.float32
    dweight = into[0] if there else np.zeros(shape, np.float32)
    if ids.size:
        run(_add_rows, dy.size, np.ascontiguousarray(ids, np.int64).reshape(-1), rows(dy), dweight)
    return ADDED if there else dweight, None


embedding.twin(np, _forward, _backward, accumulates=True)
