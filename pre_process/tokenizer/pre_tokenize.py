"""Cutting text into pieces (words, spaces, punctuation) that merges never cross. Joined, the pieces are the text.

Two ways: the naive one, where each mark stands alone, and the patterns of GPT-2 and GPT-4, where a word keeps the space
before it. Which letters belong together inside a piece is not decided here: that is learned, see bpe.py.
"""

import functools
import re
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Literal, get_args

import numpy as np

from pre_process.tokenizer.kernels.unicode_classes import LETTER, NUMBER, OTHER, WHITE, classes

PatternName = Literal["gpt2", "cl100k", "cl100k_tiktoken", "naive"]

# The separators of the naive way, in the order of the table that this project grew from. A backslash is not among them.
WHITESPACE_NAMES = {"<newline>": "\n", "<space>": " ", "<tab>": "\t"}
PUNCTUATION = tuple("!#$%&'\"()*+,-./:;<=>?@{|}~^_`[]")
NAIVE_SPECIALS = ("<pad>", "<unknown>", "<endoftext>", *WHITESPACE_NAMES, *PUNCTUATION)
SEPARATORS = (*WHITESPACE_NAMES.values(), *PUNCTUATION)

_SEPARATOR_CLASS = r" \n\t" + "".join("\\" + mark for mark in PUNCTUATION)
PATTERNS: dict[str, str] = {
    # Radford et al. 2019: contractions, then " word", " 123", " ?!", then white space that gives its last character
    # back to the word that follows.
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # GPT-4 (tiktoken's cl100k_base): contractions in either case, three digits at most, a line break ends a piece.
    "cl100k": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
    # tiktoken's own cl100k_base cuts a little differently: white space that ends a text is one piece, newlines or not.
    "cl100k_tiktoken": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s++$|\s*[\r\n]+|\s+(?!\S)|\s+",
    "naive": rf"[{_SEPARATOR_CLASS}]|[^{_SEPARATOR_CLASS}]+",
}


class NaivePreTokenizer:
    """Words, and between them <space>, <newline>, <tab> and 31 punctuation marks as pieces of their own.

    Nothing is stripped and no end-of-text is added unless asked for, so `join(split(text)) == text` for every text.
    """

    separators = frozenset(SEPARATORS)

    def split(self, text: str) -> list[str]:
        """The pieces, as they stand in the text: "a  b" → ["a", " ", " ", "b"]."""
        pieces, start = [], 0
        for position, character in enumerate(text):
            if character in self.separators:
                pieces += [text[start:position], character]
                start = position + 1
        return [piece for piece in (*pieces, text[start:]) if piece]

    def named(self, text: str, *, end_of_text: bool = False) -> list[str]:
        """The pieces for people to read: "a b" → ["a", "<space>", "b"], with "<endoftext>" at the end if asked for."""
        names = {character: name for name, character in WHITESPACE_NAMES.items()}
        return [names.get(piece, piece) for piece in self.split(text)] + ["<endoftext>"] * end_of_text

    def join(self, pieces: Sequence[str]) -> str:
        """The inverse of `split` and of `named`."""
        return "".join(WHITESPACE_NAMES.get(piece, piece) for piece in pieces if piece != "<endoftext>")


@functools.cache
def splitter(pattern: PatternName) -> Callable[[str], list[str]]:
    """The function text → pieces of one pattern. Raises ValueError for another name.

    Each pattern has an alternative for every character, so nothing falls between two pieces.
    """
    if pattern not in get_args(PatternName):
        raise ValueError(f"unknown pattern {pattern!r}: choose one of {', '.join(get_args(PatternName))}")
    find_all: Callable[[str], list[str]] = re.compile(_without_unicode(PATTERNS[pattern])).findall

    def split(text: str) -> list[str]:
        if text.isascii() or pattern == "naive":
            return find_all(text)
        ends = accumulate(map(len, find_all(_stand_ins(text))), initial=0)
        return [text[start:end] for start, end in pairwise(ends)]

    return split


# What is a letter is decided by a frozen table, not by the Unicode version of this Python. So each character beyond
# ASCII is replaced by one that stands for its class, and the pattern asks for those. The long ſ keeps its place: those
# who ignore case take it for an s.
_STAND_INS = {LETTER: "é", NUMBER: "²", OTHER: "€", WHITE: "\u00a0"}
_LONG_S = "ſ"
_LETTERS, _NUMBERS, _WHITE = f"a-zA-Z{_STAND_INS[LETTER]}{_LONG_S}", f"0-9{_STAND_INS[NUMBER]}", "\t-\r \u00a0"
_CLASSES = {
    r"[^\s\p{L}\p{N}]": f"[^{_WHITE}{_LETTERS}{_NUMBERS}]",
    r"[^\r\n\p{L}\p{N}]": f"[^\r\n{_LETTERS}{_NUMBERS}]",
    r"\p{L}": f"[{_LETTERS}]",
    r"\p{N}": f"[{_NUMBERS}]",
    r"\s": f"[{_WHITE}]",
    r"\S": f"[^{_WHITE}]",
    "++$": r"++\Z",
}


def _without_unicode(pattern: str) -> str:
    for written, characters in _CLASSES.items():
        pattern = pattern.replace(written, characters)
    return pattern


def _stand_ins(text: str) -> str:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    standing = np.array([ord(_STAND_INS.get(kind, " ")) for kind in range(6)], "<u4")[classes()[codes]]
    return np.where((codes < 128) | (codes == ord(_LONG_S)), codes, standing).tobytes().decode("utf-32-le")
