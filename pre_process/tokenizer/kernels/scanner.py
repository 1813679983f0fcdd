"""Cutting UTF-8 into pieces, byte for byte as the patterns of pre_tokenize.PATTERNS cut text.

A pattern is a list of alternatives, tried at the place where the last piece ended; `_next_gpt2` and `_next_cl100k` are
the same alternatives as branches. They decode every character and look up its class. Text is mostly ASCII, though, and
there the bytes before, at and behind a place nearly always decide whether a piece begins at it. So `_scan_ascii` reads
one answer per byte from a table (boundaries.py). Where the three do not decide, as at the apostrophe of "it's", the
branches take over for one piece.
"""

import numpy as np

from pre_process.tokenizer.kernels.boundaries import (
    BYTE_CLASSES,
    CL100K_TIKTOKEN,
    FLAGS,
    GPT2,
    NAIVE,
    QUOTE,
    UNDECIDED,
)
from pre_process.tokenizer.kernels.support import lean
from pre_process.tokenizer.kernels.unicode_classes import LETTER, NEWLINE, NUMBER, OTHER, SPACE


@lean
def scan(text: np.ndarray, start: int, end: int, pattern: int, table: np.ndarray, ends: np.ndarray) -> int:
    """Write where the pieces of text[start:end] end, one after the other, and return how many: all, or len(ends).

    text     (N,) uint8, valid UTF-8 (lone surrogates are fine) with PADDING bytes behind the last one that counts
    start    where a piece begins: a document's first byte, or where an earlier scan stopped, ends[n − 1]
    end      where the document ends: no piece crosses it
    pattern  one of NAIVE, GPT2, CL100K, CL100K_TIKTOKEN
    table    unicode_classes.classes()
    ends     (n,) int64, n ≥ 1
    """
    n, at = 0, start
    while at < end and n < len(ends):
        before = n
        n = _scan_ascii(text, at, end, pattern, ends, n)
        if n > before:
            at = ends[n - 1]
        if n < len(ends):
            at = next_piece(text, at, end, pattern, table)
            ends[n] = at
            n += 1
    return n


@lean
def _scan_ascii(text: np.ndarray, start: int, end: int, pattern: int, ends: np.ndarray, n: int) -> int:
    """Append the ends of pieces from `start` on while the table decides; the last piece of a document it never does."""
    kinds, flags = BYTE_CLASSES[pattern], FLAGS[pattern]
    if kinds[text[start]] == QUOTE:
        return n  # it may begin a contraction
    window = np.int64(kinds[text[start]]) << 6 | np.int64(kinds[text[start + 1]]) << 3
    for at in range(start + 1, min(end - 1, start + 1 + len(ends) - n)):
        window |= np.int64(kinds[text[at + 1]])
        flag = flags[window]
        if flag == UNDECIDED:
            break
        ends[n] = at
        n += flag  # no branch: what is written for a byte inside a piece is overwritten
        window = window << 3 & 511
    return n


@lean
def next_piece(text: np.ndarray, at: int, end: int, pattern: int, table: np.ndarray) -> int:
    """Where the piece ends that begins at `at` < `end`."""
    if pattern == GPT2:
        return _next_gpt2(text, at, end, table)
    if pattern == NAIVE:
        return _next_naive(text, at, end)
    return _next_cl100k(text, at, end, table, pattern == CL100K_TIKTOKEN)


@lean
def _next_naive(text: np.ndarray, at: int, end: int) -> int:
    kinds = BYTE_CLASSES[NAIVE]
    if kinds[text[at]] == NUMBER:
        return at + 1
    while at < end and kinds[text[at]] != NUMBER:
        at += 1
    return at


@lean
def _next_gpt2(text: np.ndarray, at: int, end: int, table: np.ndarray) -> int:
    """'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"""
    size = _contraction(text, at, end, False)
    if size > 0:
        return at + size
    kind, size = _character(text, at, table)
    if kind == SPACE and at + 1 < end:
        kind_behind, size_behind = _character(text, at + 1, table)
        if kind_behind <= OTHER:
            kind, size = kind_behind, 1 + size_behind
    if kind <= OTHER:
        return _run(text, at + size, end, table, kind)
    return _white_space(text, at, end, table, False, False)


@lean
def _next_cl100k(text: np.ndarray, at: int, end: int, table: np.ndarray, whole_end: bool) -> int:
    """(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|
    \\s*[\\r\\n]+|\\s+(?!\\S)|\\s+      and if `whole_end`, before the last line, \\s++$"""
    size = _contraction(text, at, end, True)
    if size > 0:
        return at + size
    kind, size = _character(text, at, table)
    if kind == NUMBER:
        return _up_to_three_numbers(text, at, end, table)
    if kind == LETTER:
        return _run(text, at + size, end, table, LETTER)
    if kind != NEWLINE and at + size < end:
        kind_behind, size_behind = _character(text, at + size, table)
        if kind_behind == LETTER:
            return _run(text, at + size + size_behind, end, table, LETTER)
        if kind == SPACE and kind_behind == OTHER:
            kind = OTHER
    if kind == OTHER:
        at = _run(text, at + size, end, table, OTHER)
        while at < end and table[text[at]] == NEWLINE:
            at += 1
        return at
    return _white_space(text, at, end, table, True, whole_end)


@lean
def _contraction(text: np.ndarray, at: int, end: int, any_case: bool) -> int:
    """How many bytes "'s", "'re" … take at `at`; 0 if there is none."""
    if text[at] != ord("'") or at + 1 == end:
        return 0
    # U+017F, the long ſ, is an s to those who ignore case
    if any_case and text[at + 1] == 0xC5 and at + 2 < end and text[at + 2] == 0xBF:
        return 3
    lower = 32 if any_case else 0
    first = text[at + 1] | lower if text[at + 1] < 128 else 0
    if first == ord("s") or first == ord("t") or first == ord("m") or first == ord("d"):
        return 2
    second = text[at + 2] | lower if at + 2 < end and text[at + 2] < 128 else 0
    if (first == ord("r") or first == ord("v")) and second == ord("e"):
        return 3
    return 3 if first == ord("l") and second == ord("l") else 0


@lean
def _up_to_three_numbers(text: np.ndarray, at: int, end: int, table: np.ndarray) -> int:
    for _ in range(3):
        kind, size = _character(text, at, table)
        if kind != NUMBER:
            return at
        at += size
        if at == end:
            return at
    return at


@lean
def _white_space(text: np.ndarray, start: int, end: int, table: np.ndarray, newlines_end: bool, whole_end: bool) -> int:
    """Where the piece of white space from `start` on ends: before the run's last character, unless the text ends there.

    newlines_end  the last newline of the run ends the piece
    whole_end     but a run at the end of the text is one piece
    """
    at, last, newline = start, start, -1
    while at < end:
        kind, size = _character(text, at, table)
        if kind <= OTHER:
            break
        last = at
        at += size
        if kind == NEWLINE:
            newline = at
    if newlines_end and newline >= 0 and not (whole_end and at == end):
        return newline
    return at if at == end or last == start else last


@lean
def _run(text: np.ndarray, at: int, end: int, table: np.ndarray, kind: int) -> int:
    """The end of the run of characters of one class."""
    while at < end:
        other, size = _character(text, at, table)
        if other != kind:
            break
        at += size
    return at


@lean
def _character(text: np.ndarray, at: int, table: np.ndarray) -> tuple[int, int]:
    """The class of the character at `at`, and how many bytes it takes."""
    first = np.int64(text[at])
    if first < 0x80:
        return table[first], 1
    second = np.int64(text[at + 1]) & 0x3F
    if first < 0xE0:
        return table[(first & 0x1F) << 6 | second], 2
    third = np.int64(text[at + 2]) & 0x3F
    if first < 0xF0:
        return table[(first & 0xF) << 12 | second << 6 | third], 3
    return table[(first & 7) << 18 | second << 12 | third << 6 | np.int64(text[at + 3]) & 0x3F], 4
