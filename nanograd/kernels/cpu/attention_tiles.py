"""What both directions of attention in tiles share: which keys a query sees, and scores of tiles that anybody sees.

Of T × S scores only tiles are ever held, of ROWS queries and COLUMNS keys. A tile is left out if none of its queries
sees any of its keys: it lies in the future, or before the documents of all its queries begin.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from nanograd.backend import Array
from nanograd.kernels.cpu.support import INNER
from nanograd.kernels.cpu.tile import COLUMNS, ROWS, tile_product

STRIP: Any = np.int64(32)  # queries of forward that share one reading of the keys
BLOCK: Any = np.int64(128)  # queries, and keys, of backward: two tiles of scores take an eighth of a second-level cache
FIRST: Any = np.int64(0)  # see tile.py


class Head(NamedTuple):
    """The sizes of one head."""

    T: int  # queries
    S: int  # keys
    D: int
    width: int  # D, rounded up to whole tiles
    causal: bool
    scale: Any  # float32


class Begins(NamedTuple):
    """The first key that each query may see: where its document begins. None instead of it: all begin at 0."""

    queries: Array  # (B, T) int64
    tiles: Array  # (B, T / ROWS) int64: the smallest of ROWS queries


class Alibi(NamedTuple):
    """What scores lose by distance: slope · (place of the query − place of the key). None instead of it: nothing."""

    slopes: Array  # (H,) float32
    places: Array  # (S,) float32: 0, 1, 2, …


@njit(**INNER)
def all_scores(
    left: Array, right_t: Array, i: int, n: int, j: int, m: int, size: Head, begins: Any, b: int, out: Array
) -> None:
    """out = left rightᵀ for rows i … i + n of left and j … j + m of right, but for tiles that nobody sees"""
    for c in range(skipped_by_all(begins, b, i, n, j, m) // COLUMNS * COLUMNS, m, COLUMNS):
        panel = (j + c) // COLUMNS * size.D
        for t in range(0, n, ROWS):
            if c < reach(i + t + ROWS - 1, j, m, size) and c + COLUMNS > skipped_by_tile(begins, b, i + t, j, m):
                tile_product(out, t, c, left, i + t, 0, right_t, panel, 0, size.D, False, False)


@njit(**INNER)
def reach(query: int, j: int, m: int, size: Head) -> int:
    """How many of the keys j … j + m a query may see, the causal triangle considered: the first so many."""
    return max(0, min(m, query + 1 + size.S - size.T - j)) if size.causal else m


@njit(**INNER)
def skipped(begins: Any, b: int, query: int, j: int, m: int) -> Any:
    """How many of the keys j … j + m lie before the query's document: the first so many."""
    if begins is None:
        return FIRST
    return max(0, min(m, begins.queries[b, query] - j))


@njit(**INNER)
def skipped_by_tile(begins: Any, b: int, query: int, j: int, m: int) -> Any:
    """How many of them all queries of a tile skip, of which `query` is the first."""
    if begins is None:
        return FIRST
    return max(0, min(m, begins.tiles[b, query // ROWS] - j))


@njit(**INNER)
def skipped_by_all(begins: Any, b: int, i: int, n: int, j: int, m: int) -> Any:
    """How many of them queries i … i + n all skip."""
    if begins is None:
        return FIRST
    least = m
    for t in range(i, i + n, ROWS):
        least = min(least, skipped_by_tile(begins, b, t, j, m))
    return least


@njit(**INNER)
def add_bias(s: Array, alibi: Any, head: int, query: int, j: int, size: Head) -> None:
    """s[c] −= slope · (place of the query − place of key j + c)"""
    slope, place = alibi.slopes[head % len(alibi.slopes)], alibi.places[query + size.S - size.T]
    places = alibi.places[j : j + len(s)]
    for c in range(len(s)):
        s[c] += slope * (places[c] - place)
