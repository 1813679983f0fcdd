"""A binary heap of pairs: the highest count on top, of equal counts the smaller left id, then the smaller right id.

A row (count, key) per pair, as in pairs.py: keys are in the order of (left, right). Row i has its children at 2 i + 1
and 2 i + 2, and none of them goes before it.
"""

import numpy as np

from pre_process.tokenizer.kernels.support import lean

COUNT, KEY = range(2)


@lean
def push(heap: np.ndarray, n: int, count: int, key: int) -> None:
    """Put a pair into a heap of `n`."""
    row = n
    while row > 0:
        parent = row - 1 >> 1
        if not _goes_before(count, key, heap[parent, COUNT], heap[parent, KEY]):
            break
        heap[row, COUNT], heap[row, KEY] = heap[parent, COUNT], heap[parent, KEY]
        row = parent
    heap[row, COUNT], heap[row, KEY] = count, key


@lean
def key_on_top(heap: np.ndarray) -> tuple[np.int64, np.int64]:
    """The two ids of the pair on top."""
    key = heap[0, KEY] - 1
    return key >> 32, key & 0xFFFFFFFF


@lean
def drop_top(heap: np.ndarray, n: int) -> int:
    """Take the pair on top out of a heap of `n` ≥ 1; returns n − 1."""
    _sink(heap, n - 1, heap[n - 1, COUNT], heap[n - 1, KEY])
    return n - 1


@lean
def lower_top(heap: np.ndarray, n: int, count: int) -> None:
    """Give the pair on top of a heap of `n` a smaller count, and let it sink to its place."""
    _sink(heap, n, count, heap[0, KEY])


@lean
def _sink(heap: np.ndarray, n: int, count: int, key: int) -> None:
    """Fill the gap on top of a heap of `n` with a pair: children that go before it move up."""
    row = 0
    while 2 * row + 1 < n:
        child = 2 * row + 1
        if child + 1 < n and _goes_before(
            heap[child + 1, COUNT], heap[child + 1, KEY], heap[child, COUNT], heap[child, KEY]
        ):
            child += 1
        if not _goes_before(heap[child, COUNT], heap[child, KEY], count, key):
            break
        heap[row, COUNT], heap[row, KEY] = heap[child, COUNT], heap[child, KEY]
        row = child
    heap[row, COUNT], heap[row, KEY] = count, key


@lean
def _goes_before(count: int, key: int, other_count: int, other_key: int) -> bool:
    return count > other_count or (count == other_count and key < other_key)
