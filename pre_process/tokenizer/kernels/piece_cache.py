"""What became of the pieces seen lately: a hash table from a piece's bytes to its ids.

A slot is four 64-bit numbers, half a cache line:

    low, high   the piece's key (keys.py); high = 0 where the slot is empty
    ids         how many ids, 32 bits, and the first one
    more        the second and the third; where there are more than three, or the key is a hash, all ids lie in
                `ids`, from the place that stands instead of the first one, and `more` is where `text` has the bytes

A key that is a hash is never trusted: the bytes are compared. The cache cannot grow. When it is full it is emptied,
which is as simple as a bound gets; the frequent pieces are back at once.
"""

from typing import Any, NamedTuple

import numpy as np

from pre_process.tokenizer.kernels.keys import LONG, key_hash, piece_key, same_bytes
from pre_process.tokenizer.kernels.support import PADDING, kernel, lean

SLOTS = 1 << 18  # 8 MB; three quarters of them hold the different pieces of some 50 MB of English
LONGEST = 64  # bytes; what is longer hardly comes again
_U64, _HALF, _LOW_HALF = np.uint64, np.uint64(32), np.uint64(0xFFFFFFFF)


class PieceCache(NamedTuple):
    """See above; `used` counts the slots, ids and bytes in use. One thread at a time may encode with it."""

    slots: np.ndarray  # (slots, 4) uint64
    ids: np.ndarray  # int32
    text: np.ndarray  # uint8
    used: np.ndarray  # (3,) int64


def new_cache(slots: int = SLOTS) -> PieceCache:
    """An empty cache. The system hands out memory page by page, so an unused part of it costs nothing."""
    ids, text = np.zeros(4 * slots, np.int32), np.zeros(8 * slots + LONGEST + PADDING, np.uint8)
    return PieceCache(np.zeros((slots, 4), np.uint64), ids, text, np.zeros(3, np.int64))


def copy_of(cache: PieceCache) -> PieceCache:
    """Another one that remembers the same."""
    copy, (_, n_ids, n_bytes) = new_cache(len(cache.slots)), cache.used
    copy.slots[:] = cache.slots
    copy.ids[:n_ids], copy.text[:n_bytes], copy.used[:] = cache.ids[:n_ids], cache.text[:n_bytes], cache.used
    return copy


@kernel
def remember_tokens(cache: PieceCache, data: np.ndarray, starts: np.ndarray, ids: np.ndarray) -> None:
    """Put pieces that are one token into the cache: data[starts[k] : starts[k + 1]] with ids[k], int32."""
    for k in range(len(ids)):
        size = starts[k + 1] - starts[k]
        if size <= LONGEST:
            low, high = piece_key(data, starts[k], size)
            slot = find(cache, low, high, data, starts[k], size)
            remember(cache, slot, low, high, data, starts[k], size, ids, k, 1)


@lean
def find(cache: PieceCache, low: np.uint64, high: np.uint64, data: np.ndarray, start: int, size: int) -> int:
    """The slot of the piece data[start : start + size] with this key, or the empty one where it belongs."""
    slots, mask = cache.slots, len(cache.slots) - 1
    slot = key_hash(low, high) & mask
    while slots[slot, 1] != _U64(0):
        same_key = slots[slot, 1] == high and slots[slot, 0] == low
        if same_key and (high < LONG or same_bytes(data, start, cache.text, np.int64(slots[slot, 3]), size)):
            return slot
        slot = slot + 1 & mask
    return slot


@lean
def recall(cache: PieceCache, slot: int, out: np.ndarray, n_out: int) -> Any:
    """Write the ids in `slot` behind the first n_out of `out`, which has room for three more; return their number."""
    ids, more = cache.slots[slot, 2], cache.slots[slot, 3]
    count, first = np.int64(ids >> _HALF), np.int64(ids & _LOW_HALF)
    if count <= 3 and cache.slots[slot, 1] < LONG:
        out[n_out] = first
        out[n_out + 1] = more >> _HALF
        out[n_out + 2] = more & _LOW_HALF
    else:
        for k in range(count):
            out[n_out + k] = cache.ids[first + k]
    return n_out + count


@lean
def remember(
    cache: PieceCache,
    slot: int,
    low: np.uint64,
    high: np.uint64,
    data: np.ndarray,
    start: int,
    size: int,
    out: np.ndarray,
    first: int,
    count: int,
) -> None:
    """Put the piece with its ids out[first : first + count] into the empty `slot`; empty the cache if it gets full."""
    used = cache.used
    cache.slots[slot, 0], cache.slots[slot, 1] = low, high
    if count <= 3 and high < LONG:
        cache.slots[slot, 2] = _U64(count) << _HALF | _U64(out[first])
        second, third = _U64(out[first + 1] if count > 1 else 0), _U64(out[first + 2] if count > 2 else 0)
        cache.slots[slot, 3] = second << _HALF | third
    else:
        cache.slots[slot, 2], cache.slots[slot, 3] = _U64(count) << _HALF | _U64(used[1]), _U64(used[2])
        for k in range(count):
            cache.ids[used[1] + k] = out[first + k]
        used[1] += count
        if high >= LONG:
            for k in range(size):
                cache.text[used[2] + k] = data[start + k]
            used[2] += size
    used[0] += 1
    if _is_full(cache):
        cache.slots[:] = 0
        used[:] = 0


@lean
def _is_full(cache: PieceCache) -> bool:
    """Is there perhaps no room for one more piece?"""
    ids_left = len(cache.ids) - cache.used[1]
    bytes_left = len(cache.text) - PADDING - cache.used[2]
    return 4 * cache.used[0] >= 3 * len(cache.slots) or ids_left < LONGEST or bytes_left < LONGEST
