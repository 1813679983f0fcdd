"""Where a piece begins, as three bytes tell it: a table of answers for each pattern, made here from rules.

Index: the class of the byte before, of the byte itself, and of the one behind, three bits each.

    h e l l o   w o r l d      (letter, letter, letter) → no piece begins here
             ^                 (letter, space, letter) → a piece begins here
               ^               (space, letter, letter) → no: " world" keeps its space
"""

import itertools
from collections.abc import Callable

import numpy as np

from pre_process.tokenizer.kernels.unicode_classes import LETTER, NEWLINE, NUMBER, OTHER, SPACE, WHITE, classes
from pre_process.tokenizer.pre_tokenize import SEPARATORS, PatternName

NAIVE, GPT2, CL100K, CL100K_TIKTOKEN = range(4)
PATTERN_NUMBERS: dict[PatternName, int] = {
    "naive": NAIVE,
    "gpt2": GPT2,
    "cl100k": CL100K,
    "cl100k_tiktoken": CL100K_TIKTOKEN,
}

QUOTE, _BEYOND_ASCII = 6, 7  # two more classes of bytes: the apostrophe, and the bytes of longer characters
INSIDE, BEGINS, UNDECIDED = range(3)


def _byte_classes() -> np.ndarray:
    """(4, 256) uint8: the class of each byte under each pattern; NAIVE knows only separators, NUMBER, and the rest."""
    table = np.full((4, 256), _BEYOND_ASCII, np.uint8)
    table[:, :128] = classes()[:128]
    table[:, ord("'")] = QUOTE
    table[NAIVE] = LETTER
    table[NAIVE, [ord(separator) for separator in SEPARATORS]] = NUMBER
    return table


def _flags() -> np.ndarray:
    """(4, 512) uint8: does a piece begin at a byte? Index: 64 · class before + 8 · class of the byte + class behind."""
    rules: dict[int, Callable[[int, int, int], int]] = {
        NAIVE: lambda before, at, _: BEGINS if NUMBER in (before, at) else INSIDE,
        GPT2: _begins_gpt2,
        CL100K: _begins_cl100k,
        CL100K_TIKTOKEN: _begins_cl100k,
    }
    return np.array(
        [[rules[pattern](*three) for three in itertools.product(range(8), repeat=3)] for pattern in sorted(rules)],
        np.uint8,
    )


def _begins_gpt2(before: int, at: int, behind: int) -> int:
    if _BEYOND_ASCII in (before, at) or (_is_white(at) and behind == _BEYOND_ASCII):
        return UNDECIDED
    if _is_white(at):  # a run of white space gives its last character back
        return INSIDE if _is_white(before) and _is_white(behind) else BEGINS
    if before == SPACE or _sign(before) == _sign(at):
        return INSIDE
    return UNDECIDED if at == QUOTE and behind == LETTER else BEGINS


def _begins_cl100k(before: int, at: int, behind: int) -> int:
    if _BEYOND_ASCII in (before, at, behind):
        return UNDECIDED
    if _sign(at) == OTHER:
        if before == SPACE or _sign(before) == OTHER:
            return INSIDE
        return UNDECIDED if at == QUOTE and behind == LETTER else BEGINS
    if at == LETTER:  # takes one sign before it, but only one that begins a piece
        return UNDECIDED if _sign(before) == OTHER else BEGINS if before in (NUMBER, NEWLINE) else INSIDE
    if at == NUMBER:  # groups of three
        return UNDECIDED if before == NUMBER else BEGINS
    if at == NEWLINE:  # ends a run of signs or of white space
        return BEGINS if before in (LETTER, NUMBER) else INSIDE
    if before == NEWLINE and _is_white(behind):  # does another newline follow in this run?
        return UNDECIDED
    return INSIDE if _is_white(before) and _is_white(behind) else BEGINS


def _is_white(kind: int) -> bool:
    return kind in (WHITE, NEWLINE, SPACE)


def _sign(kind: int) -> int:
    return OTHER if kind == QUOTE else kind


BYTE_CLASSES, FLAGS = _byte_classes(), _flags()
