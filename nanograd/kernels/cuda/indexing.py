"""Floor 3. The embedding look-up and its gradient, summed in one order always. Twin of nanograd/ops/indexing.py."""

import math
from typing import Any

import numpy as np

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cuda.launch import Twin, aligned, launch, type_name
from nanograd.kernels.cuda.operands import integers, ready, warps, width
from nanograd.ops.indexing import embedding
from nanograd.primitive import Needs
from nanograd.tensor import ADDED

CHUNK = 32  # places that one block adds up, as in indexing.cu
ROWS = 8  # that one block copies, a warp to a row
SORTERS, DIGIT = 1024, 8  # threads of the one block that sorts; bits that a pass of it sorts by


def _forward(xp: ArrayModule, weight: Array, ids: Array) -> Any:
    """A row of NaN for an id outside of the vocabulary: the loss shows it, and nobody waits for an answer."""
    ids, name = xp.asarray(ids), type_name(weight.dtype)
    if name is None or weight.ndim != 2 or ids.dtype.kind not in "iu" or not (weight.size and ids.size):
        return NotImplemented
    if not aligned(weight):
        return NotImplemented
    V, C = weight.shape
    y = xp.empty((*ids.shape, C), weight.dtype)
    grid = math.ceil(ids.size / ROWS)
    launch(xp, f"embedding_forward_{name}", grid, (32, ROWS), y, weight, *integers(xp, ids), ids.size, C, V)
    return y, (weight.shape, ids)


def _backward(
    xp: ArrayModule, dy: Array, shape: tuple[int, int], ids: Array, *, needs: Needs, into: tuple[Array | None, ...]
) -> Any:
    """Adds to the weight's gradient if there is one: of 50,257 rows a batch touches some thousands."""
    there = into[0] is not None and into[0].flags.c_contiguous and into[0].dtype == np.float32
    dweight = into[0] if there else xp.zeros(shape, np.float32)
    _add_rows(xp, dweight, ready(xp, dy, dy.dtype), ids)
    return ADDED if there else dweight, None


def _add_rows(xp: ArrayModule, dweight: Array, dy: Array, ids: Array) -> None:
    """dweight[ids[i]] += dy[i], for equal ids i after i, by the three kernels of indexing.cu"""
    (V, C), N = dweight.shape, ids.size
    memory = xp.empty(4 * N, np.int32)
    sorted_ids, places, spare = memory[:N], memory[N : 2 * N], memory[2 * N :]
    passes = math.ceil(V.bit_length() / DIGIT)  # V itself stands for ids outside of the vocabulary
    launch(xp, "sort_ids", 1, SORTERS, sorted_ids, places, spare, *integers(xp, ids), N, V, passes)
    chunks, columns = math.ceil(N / CHUNK), C // width(dy, C)
    partial = xp.empty((chunks, 2, C), np.float32)
    grid, threads = (chunks, math.ceil(columns / warps(columns))), warps(columns)
    name = f"embedding_chunk_sums_{type_name(dy.dtype)}"
    launch(xp, name, grid, threads, dweight, partial, dy, sorted_ids, places, N, C, V)
    grid = chunks - 1, math.ceil(C / warps(C))
    launch(xp, "embedding_join_runs", grid, warps(C), dweight, partial, sorted_ids, N, C, V)


TWINS = (Twin(embedding, _forward, _backward, accumulates=True),)
