"""How often each piece occurs: text goes through, and what stays is a hash table of the different pieces.

The table is open addressing: the row of a piece is the first empty one from its hash on, where later searches end too.
A row is half a cache line, and for a piece of up to 15 bytes it is all there is to read:

    low, high    the key (keys.py); high = 0 marks an empty row
    count
    at           where the bytes of a longer piece stand in `bytes`, which keeps each of them once

Kernels do not ask for memory: where a table may become too full they stop and say so, Python makes it larger, and they
go on at the same piece.
"""

from typing import NamedTuple

import numpy as np

from pre_process.tokenizer.kernels.boundaries import PATTERN_NUMBERS
from pre_process.tokenizer.kernels.keys import INLINE_BYTES, LONG, key_hash, piece_key, same_bytes
from pre_process.tokenizer.kernels.scanner import scan
from pre_process.tokenizer.kernels.support import PADDING, kernel, lean, padded
from pre_process.tokenizer.kernels.unicode_classes import classes
from pre_process.tokenizer.pre_tokenize import PatternName

LOW, HIGH, COUNT, AT = range(4)  # the columns of a row
_PIECES, _BYTES = range(2)  # what `used` counts
_SCANNED = 2048  # pieces at a time
_FIRST_ROWS = 1 << 14


class Table(NamedTuple):
    """rows (2ᵏ, 4) uint64, at least half of them empty; bytes (n,) uint8; used (2,) int64: rows, bytes."""

    rows: np.ndarray
    bytes: np.ndarray
    used: np.ndarray


class PieceCounts:
    """The different pieces of all documents it was given, and how often each occurs."""

    def __init__(self, pattern: PatternName) -> None:
        self._pattern = PATTERN_NUMBERS[pattern]
        self.table = _empty(_FIRST_ROWS, 1 << 12)

    def __len__(self) -> int:
        return int(self.table.used[_PIECES])

    def add(self, documents: list[bytes]) -> None:
        """Count the pieces of some more documents (UTF-8)."""
        text = padded(*documents)
        borders = np.cumsum([0, *map(len, documents)])
        ends, reached = np.empty(_SCANNED, np.int64), np.zeros(2, np.int64)
        while not _count(text, borders, reached, self._pattern, classes(), ends, self.table):
            self.grow(len(text))

    def absorb(self, other: "PieceCounts") -> None:
        """Add the counts of another table."""
        reached = np.zeros(1, np.int64)
        while not _absorb(self.table, other.table, reached):
            self.grow(len(other.table.bytes))

    def grow(self, more_bytes: int) -> None:
        """Four times the rows if a third of them is taken; room for `more_bytes` in any case."""
        rows, stored, used = self.table
        grown = _empty(len(rows) * (4 if used[_PIECES] > len(rows) // 3 else 1), len(stored) + more_bytes)
        grown.bytes[: used[_BYTES]] = stored[: used[_BYTES]]
        grown.used[_BYTES] = used[_BYTES]
        _move(rows, grown)
        self.table = grown


def _empty(n_rows: int, n_bytes: int) -> Table:
    return Table(np.zeros((n_rows, 4), np.uint64), np.zeros(n_bytes + PADDING, np.uint8), np.zeros(2, np.int64))


@kernel
def _count(
    text: np.ndarray,
    borders: np.ndarray,
    reached: np.ndarray,
    pattern: int,
    classes: np.ndarray,
    ends: np.ndarray,
    table: Table,
) -> bool:
    """Count the pieces of the documents between `borders`; False if the table must grow first.

    reached  (2,) int64: the document and the place in it, from the document's start, to go on at
    """
    for document in range(reached[0], len(borders) - 1):
        start, end = borders[document], borders[document + 1]
        at = _count_document(text, start + reached[1], end, pattern, classes, ends, table)
        if at < end:
            reached[0], reached[1] = document, at - start
            return False
        reached[1] = 0
    return True


@lean
def _count_document(
    text: np.ndarray, at: int, end: int, pattern: int, classes: np.ndarray, ends: np.ndarray, table: Table
) -> int:
    """Count the pieces from `at` on; returns `end`, or where the table must grow first."""
    while at < end:
        n = scan(text, at, end, pattern, classes, ends)
        if not _has_room(table, n, ends[n - 1] - at):
            return at
        for i in range(n):
            low, high = piece_key(text, at, ends[i] - at)
            _add(table, low, high, np.uint64(1), text, at, ends[i] - at)
            at = ends[i]
    return at


@kernel
def _absorb(table: Table, other: Table, reached: np.ndarray) -> bool:
    """Add the rows of `other` from `reached` on; False if the table must grow first."""
    for i in range(reached[0], len(other.rows)):
        row = other.rows[i]
        if row[HIGH] == 0:
            continue
        size = piece_size(row[HIGH])
        if not _has_room(table, 1, size):
            reached[0] = i
            return False
        _add(table, row[LOW], row[HIGH], row[COUNT], other.bytes, np.int64(row[AT]), size)
    return True


@kernel
def _move(rows: np.ndarray, table: Table) -> None:
    """Put the rows of a smaller table into an empty one, which has taken over its bytes."""
    for i in range(len(rows)):
        row = rows[i]
        if row[HIGH] == 0:
            continue
        place = key_hash(row[LOW], row[HIGH]) & (len(table.rows) - 1)
        while table.rows[place, HIGH] != 0:
            place = place + 1 & (len(table.rows) - 1)
        for column in range(4):
            table.rows[place, column] = row[column]
        table.used[_PIECES] += 1


@lean
def _has_room(table: Table, n_pieces: int, n_bytes: int) -> bool:
    return (
        2 * (table.used[_PIECES] + n_pieces) <= len(table.rows)
        and table.used[_BYTES] + n_bytes <= len(table.bytes) - PADDING
    )


@lean
def _add(table: Table, low: np.uint64, high: np.uint64, count: np.uint64, text: np.ndarray, at: int, size: int) -> None:
    """Add `count` occurrences of the piece with this key; a long one is text[at : at + size]."""
    rows = table.rows
    place = key_hash(low, high) & (len(rows) - 1)
    while rows[place, HIGH] != 0:
        same_key = rows[place, HIGH] == high and rows[place, LOW] == low
        if same_key and (size <= INLINE_BYTES or same_bytes(text, at, table.bytes, np.int64(rows[place, AT]), size)):
            rows[place, COUNT] += count
            return
        place = place + 1 & (len(rows) - 1)
    rows[place, LOW], rows[place, HIGH], rows[place, COUNT] = low, high, count
    table.used[_PIECES] += 1
    if size > INLINE_BYTES:
        stored = table.used[_BYTES]
        rows[place, AT] = stored
        for i in range(size):
            table.bytes[stored + i] = text[at + i]
        table.used[_BYTES] += size


@lean
def piece_size(high: np.uint64) -> np.int64:
    """How many bytes the piece with this key has."""
    if high & LONG == LONG:
        return np.int64(high & ~LONG)
    return np.int64(high >> np.uint64(56))
