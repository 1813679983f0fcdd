"""Text → ids: cut UTF-8 into words and give each different one a number, in one pass over the bytes.

What belongs to a word is a table of classes, one for each code point. The different words are in a hash table with open
addressing: the row of a word is the first empty one from its hash on. A row is

    low, high    the word as a key (tokenizer/kernels/keys.py): up to 15 bytes are the key itself; high = 0: empty row
    id           1, 2, 3 … less one: in the order of first appearance
    at           where the word stands in `bytes`, which keeps each of them once

Kernels do not ask for memory: where a table may become too full they stop and say so, Python makes it larger, and they
go on at the same place.
"""

from typing import NamedTuple

import numpy as np

from pre_process.tokenizer.kernels.keys import INLINE_BYTES, key_hash, piece_key, same_bytes
from pre_process.tokenizer.kernels.support import PADDING
from pre_process.word2vec.kernels import END, LONGEST
from pre_process.word2vec.kernels.support import inline, kernel

OTHER, INSIDE, JOINER, WHITE, NEWLINE = range(5)  # a joiner is part of a word between two characters that are inside
LOW, HIGH, ID, AT = range(4)  # the columns of a row


class Words(NamedTuple):
    """rows (2ᵏ, 4) uint64, at least half of them empty; bytes (n,) uint8; starts (2ᵏ⁻¹ + 1,) int64: of words in bytes;
    used (1,) int64: how many words."""

    rows: np.ndarray
    bytes: np.ndarray
    starts: np.ndarray
    used: np.ndarray


def no_words(n_rows: int, n_bytes: int) -> Words:
    """An empty table with room for n_rows / 2 words of n_bytes together."""
    return Words(
        np.zeros((n_rows, 4), np.uint64),
        np.zeros(n_bytes + PADDING, np.uint8),
        np.zeros(n_rows // 2 + 1, np.int64),
        np.zeros(1, np.int64),
    )


@kernel
def scan_words(
    text: np.ndarray, at: int, end: int, classes: np.ndarray, lines: int, words: Words, ids: np.ndarray, n: np.ndarray
) -> int:
    """Append the ids of the words of text[at:end] to `ids`; returns `end`, or where the table must grow first.

    text     (…,) uint8, UTF-8, with PADDING bytes behind `end`
    classes  (N_CODE_POINTS,) uint8
    lines    so many line ends, with nothing but white space between them, end a sentence; so does the text's end
    ids      (…,) int32 with room for one id for each byte, and one more
    n        (2,) int64: ids written so far, and those of them that belong to the present sentence
    """
    breaks = 0
    while at < end:
        kind, size = _class_at(text, at, classes)
        if kind == INSIDE:
            stop = _end_of_word(text, at + size, end, classes)
            if not _has_room(words, stop - at):
                return at
            ids[n[0]] = _id_of(words, text, at, stop - at)
            n[0], n[1] = n[0] + 1, n[1] + 1
            if n[1] == LONGEST:
                _end_sentence(ids, n)
            breaks, at = 0, stop
            continue
        if kind == NEWLINE:
            breaks += 1
            if breaks == lines:
                _end_sentence(ids, n)
        elif kind != WHITE:
            breaks = 0
        at += size
    _end_sentence(ids, n)
    return end


@inline
def _end_sentence(ids: np.ndarray, n: np.ndarray) -> None:
    if n[1] > 0:
        ids[n[0]] = END
        n[0], n[1] = n[0] + 1, 0


@inline
def _end_of_word(text: np.ndarray, at: int, end: int, classes: np.ndarray) -> int:
    """Where the word ends that goes on at `at`."""
    while at < end:
        kind, size = _class_at(text, at, classes)
        joins = kind == JOINER and at + size < end and _class_at(text, at + size, classes)[0] == INSIDE
        if kind != INSIDE and not joins:
            break
        at += size
    return at


@inline
def _class_at(text: np.ndarray, at: int, classes: np.ndarray) -> tuple[int, int]:
    """(class, bytes) of the character at `at` in valid UTF-8."""
    lead = np.int64(text[at])
    if lead < 0x80:
        return classes[lead], 1
    second = np.int64(text[at + 1]) & 0x3F
    if lead < 0xE0:
        return classes[(lead & 0x1F) << 6 | second], 2
    third = np.int64(text[at + 2]) & 0x3F
    if lead < 0xF0:
        return classes[(lead & 0x0F) << 12 | second << 6 | third], 3
    return classes[(lead & 0x07) << 18 | second << 12 | third << 6 | np.int64(text[at + 3]) & 0x3F], 4


@inline
def _has_room(words: Words, n_bytes: int) -> bool:
    n = words.used[0]
    return 2 * (n + 1) <= len(words.rows) and words.starts[n] + n_bytes <= len(words.bytes) - PADDING


@inline
def _id_of(words: Words, text: np.ndarray, at: int, size: int) -> np.int64:
    """The id of the word text[at : at + size]: its old one, or the next."""
    low, high = piece_key(text, at, size)
    rows, n = words.rows, words.used[0]
    place = key_hash(low, high) & (len(rows) - 1)
    while rows[place, HIGH] != 0:
        same_key = rows[place, HIGH] == high and rows[place, LOW] == low
        if same_key and (size <= INLINE_BYTES or same_bytes(text, at, words.bytes, np.int64(rows[place, AT]), size)):
            return np.int64(rows[place, ID])
        place = place + 1 & (len(rows) - 1)
    stored = words.starts[n]
    rows[place, LOW], rows[place, HIGH], rows[place, ID], rows[place, AT] = low, high, n, stored
    for i in range(size):
        words.bytes[stored + i] = text[at + i]
    words.starts[n + 1] = stored + size
    words.used[0] = n + 1
    return np.int64(n)


@kernel
def move_words(words: Words, larger: Words) -> None:
    """Put the rows into an empty table, which has taken over all else."""
    for i in range(len(words.rows)):
        row = words.rows[i]
        if row[HIGH] != 0:
            place = key_hash(row[LOW], row[HIGH]) & (len(larger.rows) - 1)
            while larger.rows[place, HIGH] != 0:
                place = place + 1 & (len(larger.rows) - 1)
            for column in range(4):
                larger.rows[place, column] = row[column]


@kernel
def count_ids(ids: np.ndarray, counts: np.ndarray) -> None:
    """counts[id] += 1 for each that is not END."""
    for word in ids:
        if word != END:
            counts[word] += 1


@kernel
def renumber(ids: np.ndarray, new_ids: np.ndarray, out: np.ndarray, n: int) -> int:
    """Append new_ids[id] of each id to out[:n], which ends a sentence; returns how many there are then.

    Words whose new id is negative are left out, and sentences of which nothing is left.
    """
    for word in ids:
        if word == END:
            if n > 0 and out[n - 1] != END:
                out[n] = END
                n += 1
        elif new_ids[word] >= 0:
            out[n] = new_ids[word]
            n += 1
    return n
