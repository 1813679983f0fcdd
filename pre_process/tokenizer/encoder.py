"""Plain text → ids: cut it into pieces, turn each piece into ids.

A piece becomes ids in one of two ways. "merges" replays the training: of all pairs that can be joined, the one learnt
first (the lowest rank) is joined, until none is left. "greedy" takes the longest token that fits, then the next; it
needs no merges and can give other ids: where bc was learnt before ab, "abc" is a|bc by merges and ab|c by greed.

Here it is in Python, which is quick enough for a prompt. For a corpus kernels/encoding.py does the same, compiled.
"""

import heapq
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from pre_process.tokenizer.batch import Rows
from pre_process.tokenizer.byte_level import utf8
from pre_process.tokenizer.kernels import compiled_pays
from pre_process.tokenizer.lookup import HashLookup
from pre_process.tokenizer.pre_tokenize import PatternName, splitter
from pre_process.tokenizer.vocabulary import TokenizerError, Vocabulary

if TYPE_CHECKING:
    from pre_process.tokenizer.kernels.compiled import CompiledEncoder

Method = Literal["merges", "greedy"]
Ranks = Mapping[tuple[int, int], tuple[int, int]]

CACHE_SIZE = 1 << 16  # pieces; about the distinct words of 10 MB of English
LONGEST_REMEMBERED = 64  # characters; what is longer hardly comes again


class Encoder:
    """Ids of plain texts, by one method: in Python or by compiled code, whichever is quicker.

    Both remember the answers for the pieces seen lately, for a text repeats its words. Threads may share an encoder.
    """

    def __init__(self, vocabulary: Vocabulary, pattern: PatternName, method: Method) -> None:
        """Raises TokenizerError for a method that there is not, or that this vocabulary has not."""
        if method not in get_args(Method):
            raise TokenizerError(f"unknown method {method!r}: choose one of {', '.join(get_args(Method))}")
        if method == "merges" and vocabulary.needs_greedy:
            raise TokenizerError("this vocabulary came without merges: encode with method='greedy'")
        self._vocabulary = vocabulary
        self._pattern: PatternName = pattern
        self._method = method
        self._split = splitter(pattern)
        self._cache: dict[str, list[int]] = {}

    def encode(self, texts: Sequence[str], *, threads: int = 1) -> Rows:
        """The ids of all texts, int32. Special tokens have no meaning in them. Raises TokenizerError (over 1 GiB)."""
        if compiled_pays("encode", sum(map(len, texts))) and self._compiled:
            return self._compiled.encode(texts, threads=threads)
        ids, starts = list[int](), [0]
        for text in texts:
            ids += self._encode_text(text)
            starts.append(len(ids))
        return Rows(np.array(ids, np.int32), np.array(starts))

    @cached_property
    def _lookup(self) -> HashLookup:
        return HashLookup(self._vocabulary.ids)

    @cached_property
    def _compiled(self) -> "CompiledEncoder | None":
        from pre_process.tokenizer.kernels.compiled import CompiledEncoder
        from pre_process.tokenizer.kernels.tables import fits

        if not fits(self._vocabulary):
            return None
        return CompiledEncoder(self._vocabulary, self._pattern, greedy=self._method == "greedy")

    def _encode_text(self, text: str) -> list[int]:
        ids = list[int]()
        for piece in self._split(text):
            known = self._cache.get(piece)
            if known is None:
                known = self._encode_piece(piece)
                self._remember(piece, known)
            ids += known
        return ids

    def _encode_piece(self, piece: str) -> list[int]:
        if self._method == "greedy":
            return longest_matches(utf8(piece), self._lookup)
        if self._vocabulary.whole_pieces and (token_id := self._vocabulary.ids.get(utf8(piece))) is not None:
            return [token_id]
        return apply_merges(self._vocabulary.symbols(piece), self._vocabulary.ranks)

    def _remember(self, piece: str, ids: list[int]) -> None:
        if len(piece) > LONGEST_REMEMBERED:
            return
        if len(self._cache) >= CACHE_SIZE:
            self._cache.clear()  # as simple as a bound gets, and the frequent words are back at once
        self._cache[piece] = ids


def longest_matches(data: bytes, lookup: HashLookup) -> list[int]:
    """Greedy: the longest token at the start, then the longest one behind it, …"""
    ids, start = [], 0
    while start < len(data):
        match = lookup.longest_match(data, start)
        if match is None:
            raise TokenizerError(f"no token begins with byte {data[start]:#04x}")
        token_id, start = match
        ids.append(token_id)
    return ids


def apply_merges(symbols: list[int], ranks: Ranks) -> list[int]:
    """Join the pair of lowest rank, the leftmost of equals, and again, until no pair has a rank.

    Looking through all pairs each time would be O(n²). Here a heap of (rank, place) finds the next one and a linked
    list keeps the symbols that are still there: O(n log n), so that a megabyte without a space is no trouble.
    """
    symbols, n = list(symbols), len(symbols)
    after, before = [*range(1, n), -1], [*range(-1, n - 1)]
    heap = [(ranks[pair][0], i) for i, pair in enumerate(pairwise(symbols)) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        rank, i = heapq.heappop(heap)
        j = after[i]
        found = ranks.get((symbols[i], symbols[j])) if j >= 0 else None
        if found is None or found[0] != rank:
            continue  # a neighbouring merge came first
        symbols[i], symbols[j] = found[1], -1
        after[i] = k = after[j]
        if k >= 0:
            before[k] = i
        for left, right in ((before[i], i), (i, k)):
            if left >= 0 and right >= 0 and (found := ranks.get((symbols[left], symbols[right]))):
                heapq.heappush(heap, (found[0], left))
    return [symbol for symbol in symbols if symbol >= 0]
