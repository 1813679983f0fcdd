"""A table of pairs of ids: open addressing, the row of a pair is the first one from its hash on that is its own.

KEY    1 + (left << 32 | right); 0 marks an empty row
COUNT  how often the pair occurs
FIRST  where the list of its places begins, and
N      how long that is
"""

import numpy as np

from pre_process.tokenizer.kernels.support import kernel, lean

KEY, COUNT, FIRST, N = range(4)
_PAIRS = 0  # the entry of `used` that counts the rows taken


@lean
def pair_row(pairs: np.ndarray, left: int, right: int) -> int:
    """The row of a pair, −1 if it is not in the table."""
    row = _search(pairs, _key(left, right))
    return row if pairs[row, KEY] != 0 else -1


@lean
def add_pair(pairs: np.ndarray, left: int, right: int, used: np.ndarray) -> int:
    """The row of a pair, which is entered if need be."""
    key = _key(left, right)
    row = _search(pairs, key)
    if pairs[row, KEY] == 0:
        pairs[row, KEY] = key
        used[_PAIRS] += 1
    return row


@kernel
def move_pairs(pairs: np.ndarray, larger: np.ndarray) -> None:
    """Copy all pairs into a larger table, which is empty."""
    for old in range(len(pairs)):
        if pairs[old, KEY] != 0:
            row = _search(larger, pairs[old, KEY])
            larger[row] = pairs[old]


@lean
def _key(left: int, right: int) -> np.int64:
    return 1 + (np.int64(left) << 32 | np.int64(right))


@lean
def _search(pairs: np.ndarray, key: np.int64) -> np.int64:
    """The row that holds `key`, or the empty one where it would go."""
    mask = len(pairs) - 1
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴/φ
    row = np.int64(mixed >> np.uint64(32)) & mask
    while pairs[row, KEY] != 0 and pairs[row, KEY] != key:
        row = row + 1 & mask
    return row
