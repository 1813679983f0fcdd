"""Which two neighbours may be joined, and when: a hash table (left id, right id) → rank of their merge.

A slot is one int64: 20 bits for each id, 23 for the rank; the sign bit is set where the slot is empty. So the 32,000
merges of an ordinary vocabulary take half a megabyte, which stays in the processor's second cache.
"""

from typing import Any

import numpy as np

from pre_process.tokenizer.kernels.support import kernel, lean

NEVER = np.int32(2**31 - 1)  # the rank of two neighbours that are not joined: it comes after all others
MOST_TOKENS, MOST_MERGES = 1 << 20, 1 << 23
_ID_BITS, _RANK_BITS, _RANK_MASK = 20, 23, (1 << 23) - 1
_MULTIPLIER = 0x9E3779B97F4A7C15 - 2**64  # 2⁶⁴ divided by the golden ratio, as int64 (Knuth, TAOCP 3, 6.4)


def pair_ranks(parts: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The table of merges: parts (M, 2) int64, the two ids of each, and ranks (M,) int64. No pair may occur twice.

    Ids must lie below MOST_TOKENS, ranks below MOST_MERGES. At least half of the slots stay empty.
    """
    table = np.full(1 << (2 * len(parts)).bit_length(), -1)
    _fill(table, parts, ranks)
    return table


def ranks_in(table: np.ndarray) -> np.ndarray:
    """The ranks of all merges in the table, in no order."""
    return table[table >= 0] & _RANK_MASK


@kernel
def _fill(table: np.ndarray, parts: np.ndarray, ranks: np.ndarray) -> None:
    for k in range(len(ranks)):
        pair = parts[k, 0] << _ID_BITS | parts[k, 1]
        slot = _first_slot(table, pair)
        while table[slot] >= 0:
            slot = slot + 1 & len(table) - 1
        table[slot] = pair << _RANK_BITS | ranks[k]


@lean
def rank_of(table: np.ndarray, left: int, right: int) -> Any:
    """The rank of the merge of two ids, NEVER if there is none."""
    pair = np.int64(left) << _ID_BITS | np.int64(right)
    slot = _first_slot(table, pair)
    while table[slot] >= 0:
        if table[slot] >> _RANK_BITS == pair:
            return np.int32(table[slot] & _RANK_MASK)
        slot = slot + 1 & len(table) - 1
    return NEVER


@lean
def _first_slot(table: np.ndarray, pair: int) -> int:
    """Where to begin: the middle bits of a product, which depend on all bits of both ids."""
    return pair * _MULTIPLIER >> 20 & len(table) - 1
