"""Counted pieces as words of symbols, the form in which merges are learnt: flat arrays, an edge between two words."""

import numpy as np

from pre_process.tokenizer.kernels.counting import AT, COUNT, HIGH, LOW, Table, piece_size
from pre_process.tokenizer.kernels.keys import INLINE_BYTES
from pre_process.tokenizer.kernels.support import kernel, lean
from pre_process.tokenizer.kernels.unicode_classes import N_CODE_POINTS

EDGE = -1


def spell(table: Table, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pieces as symbols (S,) int32, EDGE before, between and behind them, and the count around each (S,) int64.

    ids  the symbol of each byte (256,), or of each code point (N_CODE_POINTS,); int32, EDGE where there is none

    Pieces of one byte have no neighbours to merge, so they are left out.
    """
    size = _count_bytes(table)
    symbols, weights = np.empty(size, np.int32), np.empty(size, np.int64)
    n = _spell(table, ids, len(ids) > 256, symbols, weights)
    return symbols[:n], weights[:n]


def count_characters(table: Table) -> np.ndarray:
    """(N_CODE_POINTS,) int64: how often each character occurs in all pieces of two bytes or more."""
    counts = np.zeros(N_CODE_POINTS, np.int64)
    _count_characters(table, counts)
    return counts


@kernel
def _count_bytes(table: Table) -> int:
    """At most as many symbols there are."""
    n = 1
    for row in range(len(table.rows)):
        if table.rows[row, HIGH] != 0:
            n += piece_size(table.rows[row, HIGH]) + 1
    return n


@kernel
def _spell(table: Table, ids: np.ndarray, by_character: bool, symbols: np.ndarray, weights: np.ndarray) -> int:
    symbols[0], weights[0], n = EDGE, 0, 1
    for row in range(len(table.rows)):
        if table.rows[row, HIGH] != 0 and piece_size(table.rows[row, HIGH]) > 1:
            n = _spell_piece(table, row, ids, by_character, symbols, weights, n)
    return n


@lean
def _spell_piece(
    table: Table, row: int, ids: np.ndarray, by_character: bool, symbols: np.ndarray, weights: np.ndarray, n: int
) -> int:
    """Write one word and the edge behind it from n on; returns where the next one begins."""
    size, count = piece_size(table.rows[row, HIGH]), np.int64(table.rows[row, COUNT])
    at = 0
    while at < size:
        code, width = _character(table, row, at) if by_character else (_byte(table, row, at), 1)
        symbols[n], weights[n] = ids[code], count
        n, at = n + 1, at + width
    symbols[n], weights[n] = EDGE, count
    return n + 1


@kernel
def _count_characters(table: Table, counts: np.ndarray) -> None:
    for row in range(len(table.rows)):
        size, at = np.int64(0), 0
        if table.rows[row, HIGH] != 0:
            size = piece_size(table.rows[row, HIGH])
        while size > 1 and at < size:
            code, width = _character(table, row, at)
            counts[code] += np.int64(table.rows[row, COUNT])
            at += width


@lean
def _character(table: Table, row: int, at: int) -> tuple[np.int64, int]:
    """The code point that begins at byte `at` of a piece, and how many bytes it takes."""
    first = _byte(table, row, at)
    if first < 0x80:
        return first, 1
    width = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    code = first & 0x7F >> width
    for i in range(1, width):
        code = code << 6 | _byte(table, row, at + i) & 0x3F
    return code, width


@lean
def _byte(table: Table, row: int, at: int) -> np.int64:
    """Byte `at` of a piece: short ones stand in their key."""
    if piece_size(table.rows[row, HIGH]) > INLINE_BYTES:
        return np.int64(table.bytes[np.int64(table.rows[row, AT]) + at])
    half = table.rows[row, LOW] if at < 8 else table.rows[row, HIGH]
    return np.int64(half >> np.uint64(8 * (at & 7)) & np.uint64(255))
