"""From texts to a vocabulary: cut documents into pieces, count them, number the first symbols, learn the merges.

Counting and learning is done by this file and bpe.py, or for texts that are worth it by their compiled twins in
kernels/training.py; both give the same vocabulary.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Protocol

from pre_process.tokenizer import kernels
from pre_process.tokenizer.bpe import Pair, learn_merges
from pre_process.tokenizer.byte_level import BYTES_IN_ORDER, has_lone_surrogate, utf8
from pre_process.tokenizer.pre_tokenize import PatternName, splitter
from pre_process.tokenizer.vocabulary import Level, TokenizerError, Vocabulary


class Pieces(Protocol):
    """The counted pieces of a training text; false if there are none."""

    def __bool__(self) -> bool: ...

    def frequent_characters(self, min_frequency: int) -> list[str]:
        """The characters beyond ASCII that occur so often, sorted; no lone surrogates."""

    def learn_merges(
        self, start: Vocabulary, *, n_merges: int, min_frequency: int, progress: Callable[[int, int], None] | None
    ) -> list[Pair]:
        """The merges, numbered behind the tokens of `start`."""


def train_vocabulary(
    documents: Iterable[bytes],
    *,
    vocab_size: int,
    pattern: PatternName,
    special_tokens: Sequence[str],
    min_frequency: int,
    threads: int | None = None,
    counted: Callable[[int], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Vocabulary:
    """Special tokens first, then the first symbols, then as many merges as `vocab_size` leaves room for.

    documents  UTF-8, read once; held are the distinct pieces, not the documents
    threads    for counting, where that is compiled; None: one per core. The result does not depend on it.
    counted    hears how many bytes have been read so far;   progress  merges done, merges wanted
    """
    check_specials(special_tokens, splitter(pattern))
    level: Level = "character" if pattern == "naive" else "byte"
    documents, is_compiled = _choose(documents)
    if is_compiled:
        with kernels.compiling("train") as is_first:
            from pre_process.tokenizer.kernels import training

            if is_first:
                training.warm_up()
        pieces: Pieces = training.CompiledPieces(documents, pattern, threads=threads, counted=counted)
        return _train(pieces, vocab_size, level, special_tokens, min_frequency, progress)
    return _train(PythonPieces(documents, pattern, counted), vocab_size, level, special_tokens, min_frequency, progress)


def _choose(documents: Iterable[bytes]) -> tuple[Iterable[bytes], bool]:
    """The same documents, and whether there are so many of them that compiled code pays: as few as that are read."""
    worth = kernels.worth_compiling("train")
    documents, first, size = iter(documents), list[bytes](), 0
    while size < worth:
        document = next(documents, None)
        if document is None:
            return first, False
        first.append(document)
        size += len(document)
    return itertools.chain(first, documents), True


def check_specials(special_tokens: Sequence[str], split: Callable[[str], list[str]]) -> None:
    """Raise TokenizerError for special tokens that are empty, doubled, not Unicode, or that a merge could spell."""
    if isinstance(special_tokens, str):
        raise TokenizerError(f"special_tokens is one string: pass a list, [{special_tokens!r}]")
    if len(set(special_tokens)) < len(special_tokens):
        raise TokenizerError(f"special tokens are given twice: {', '.join(special_tokens)}")
    for special in special_tokens:
        if len(split(special)) < 2:
            raise TokenizerError(f"special token {special!r} looks like ordinary text: write it like <|name|>")
        if has_lone_surrogate(special):
            raise TokenizerError(f"special token {special!r} holds a lone surrogate, which no file can hold")


def _train(
    pieces: Pieces,
    vocab_size: int,
    level: Level,
    special_tokens: Sequence[str],
    min_frequency: int,
    progress: Callable[[int, int], None] | None,
) -> Vocabulary:
    if not pieces:
        raise TokenizerError("the training text is empty: a tokenizer needs some text to learn from")
    symbols = _first_symbols(pieces, level, min_frequency)
    tokens = [*map(utf8, special_tokens), *symbols]
    if vocab_size < len(tokens):
        raise TokenizerError(
            f"vocab_size {vocab_size} is too small: {len(special_tokens)} special tokens and {len(symbols)} "
            f"{level}s need {len(tokens)}"
        )
    specials = {special: token_id for token_id, special in enumerate(special_tokens)}
    start = Vocabulary(tuple(tokens), (), specials, level)
    merges = pieces.learn_merges(
        start, n_merges=vocab_size - len(tokens), min_frequency=min_frequency, progress=progress
    )
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return Vocabulary(tuple(tokens), tuple(merges), specials, level)


def _first_symbols(pieces: Pieces, level: Level, min_frequency: int) -> Sequence[bytes]:
    """The tokens that exist before any merge: the 256 bytes, and for "character" each non-ASCII character seen often.

    A character rarer than `min_frequency` is left to its bytes.
    """
    if level == "byte":
        return BYTES_IN_ORDER
    characters = pieces.frequent_characters(min_frequency)
    return [bytes([byte]) for byte in range(256)] + [utf8(character) for character in characters]


class PythonPieces:
    """The pieces in a Counter; holds one document at a time. The readable version of what kernels/training.py does."""

    def __init__(
        self, documents: Iterable[bytes], pattern: PatternName, counted: Callable[[int], None] | None = None
    ) -> None:
        split, size = splitter(pattern), 0
        self._counts: Counter[str] = Counter()
        for document in documents:
            self._counts.update(split(document.decode("utf-8", "surrogatepass")))
            size += len(document)
            if counted:
                counted(size)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def frequent_characters(self, min_frequency: int) -> list[str]:
        """The characters beyond ASCII that occur so often, sorted; no lone surrogates."""
        counts: Counter[str] = Counter()
        for piece, count in self._counts.items():
            if not piece.isascii():
                for character in piece:
                    counts[character] += count
        return sorted(c for c, count in counts.items() if count >= min_frequency and _may_be_a_token(c))

    def learn_merges(
        self, start: Vocabulary, *, n_merges: int, min_frequency: int, progress: Callable[[int, int], None] | None
    ) -> list[Pair]:
        """The merges, numbered behind the tokens of `start`."""
        words = _words(self._counts, start)
        return learn_merges(
            words, n_merges=n_merges, first_id=len(start.tokens), min_frequency=min_frequency, progress=progress
        )


def _may_be_a_token(character: str) -> bool:
    return not character.isascii() and not has_lone_surrogate(character)


def _words(pieces: Mapping[str, int], vocabulary: Vocabulary) -> Counter[tuple[int, ...]]:
    """The pieces as first symbols. At character level a rare character's bytes cut the word: they are never merged."""
    never_merged = set(vocabulary.byte_ids(bytes(range(128, 256)))) if vocabulary.level == "character" else set[int]()
    words: Counter[tuple[int, ...]] = Counter()
    for piece, count in pieces.items():
        for is_cut, run in groupby(vocabulary.symbols(piece), key=never_merged.__contains__):
            if not is_cut:
                words[tuple(run)] += count
    return words
