"""The third way of apply_merges.py: joining by a heap, which asks for no order among the merges."""

import numpy as np

from pre_process.tokenizer.kernels.apply_merges import Merges, first_symbol
from pre_process.tokenizer.kernels.pair_ranks import NEVER, rank_of
from pre_process.tokenizer.kernels.support import helper, lean

_NOWHERE = np.int32(-1)  # stands for a neighbour that is not there, and for a token that was joined to its left


@helper
def join_by_heap(data: np.ndarray, start: int, end: int, merges: Merges, out: np.ndarray, n_out: int) -> int:
    """As `join_many`, for merges in any order."""
    room = end - start
    heap = np.empty(3 * room, np.int64)  # rank · 2³² + place; a join takes one entry away and adds two
    token = np.empty(room, np.int32)
    after, before = np.empty(room, np.int32), np.empty(room, np.int32)
    n = _link_symbols(data, start, end, merges, token, after, before)
    _join_from_heap(heap, token[:n], after, before, merges)
    for place in range(n):
        if token[place] != _NOWHERE:
            out[n_out] = token[place]
            n_out += 1
    return n_out


@lean
def _link_symbols(
    data: np.ndarray, start: int, end: int, merges: Merges, token: np.ndarray, after: np.ndarray, before: np.ndarray
) -> int:
    """Write the symbols of data[start:end] and the places of their neighbours; return how many symbols."""
    n = 0
    while start < end:
        token[n], length = first_symbol(data, start, end, merges.symbols)
        after[n], before[n] = n + 1, n - 1
        start += length
        n += 1
    after[n - 1] = _NOWHERE
    return n


@lean
def _join_from_heap(heap: np.ndarray, token: np.ndarray, after: np.ndarray, before: np.ndarray, merges: Merges) -> None:
    size = 0
    for place in range(len(token) - 1):
        size = _push(heap, size, place, place + 1, token, merges)
    while size > 0:
        rank, left = heap[0] >> 32, heap[0] & 0xFFFFFFFF
        size = _pop(heap, size)
        right = np.int64(after[left])
        if token[left] == _NOWHERE or right < 0 or rank_of(merges.pairs, token[left], token[right]) != rank:
            continue  # a neighbouring join came first
        token[left], token[right] = merges.made[rank], _NOWHERE
        behind, ahead = np.int64(after[right]), np.int64(before[left])
        after[left] = behind
        if behind >= 0:
            before[behind] = left
            size = _push(heap, size, left, behind, token, merges)
        if ahead >= 0:
            size = _push(heap, size, ahead, left, token, merges)


@lean
def _push(heap: np.ndarray, size: int, left: int, right: int, token: np.ndarray, merges: Merges) -> int:
    """Put a pair of places into the heap if their tokens can be joined; return the heap's size."""
    rank = rank_of(merges.pairs, token[left], token[right])
    if rank == NEVER:
        return size
    entry, i = np.int64(rank) << 32 | left, size
    while i > 0 and entry < heap[i - 1 >> 1]:
        heap[i] = heap[i - 1 >> 1]
        i = i - 1 >> 1
    heap[i] = entry
    return size + 1


@lean
def _pop(heap: np.ndarray, size: int) -> int:
    """Take the lowest entry out of the heap; return its size."""
    size -= 1
    entry, i = heap[size], 0
    while 2 * i + 1 < size:
        child = 2 * i + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= entry:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = entry
    return size
