"""The kernels for those who call them: texts in, arrays out, and back."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from pre_process.tokenizer.batch import Rows, join_rows, starts_of
from pre_process.tokenizer.byte_level import utf8
from pre_process.tokenizer.kernels import compiling
from pre_process.tokenizer.kernels.boundaries import PATTERN_NUMBERS
from pre_process.tokenizer.kernels.decoding import decode, places
from pre_process.tokenizer.kernels.encoding import GREEDY, MERGES, SLACK, WHOLE_PIECES, encode_documents
from pre_process.tokenizer.kernels.piece_cache import SLOTS, PieceCache, copy_of, new_cache, remember_tokens
from pre_process.tokenizer.kernels.support import padded
from pre_process.tokenizer.kernels.tables import laid_out, merges_of, no_trie, reached, trie_of
from pre_process.tokenizer.kernels.unicode_classes import classes
from pre_process.tokenizer.pre_tokenize import PatternName
from pre_process.tokenizer.vocabulary import TokenizerError, Vocabulary

BLOCK = 1 << 20  # characters; about as many are encoded at a time by each thread
LONGEST_TEXT = 1 << 30  # bytes; kernels count the places of a text in 32 bits


class CompiledEncoder:
    """Plain texts → ids. Any number of threads may use it at once."""

    def __init__(self, vocabulary: Vocabulary, pattern: PatternName, *, greedy: bool) -> None:
        with compiling("encode"):
            merges = merges_of(vocabulary)
            own = vocabulary.ids if greedy else reached(vocabulary, merges)
            rule, trie = GREEDY if greedy else MERGES, trie_of(vocabulary.ids) if greedy else no_trie()
            if vocabulary.whole_pieces and not greedy and len(own) < len(vocabulary.ids):
                rule, trie = (
                    WHOLE_PIECES,
                    trie_of({token: i for token, i in vocabulary.ids.items() if token not in own}),
                )
            self._tables = PATTERN_NUMBERS[pattern], classes(), rule, merges, trie
            self._first_cache = _cache_of(dict(islice(own.items(), SLOTS // 4)))
            self._idle: list[PieceCache] = []  # who encodes takes one, or makes one, and puts it back
            self.encode([""])

    def encode(self, texts: Sequence[str], *, threads: int = 1) -> Rows:
        """The ids of all texts. Raises TokenizerError for a text of more than 1 GiB."""
        blocks = list(_blocks(texts))
        if threads == 1 or len(blocks) == 1:
            return join_rows([self._encode_block(block) for block in blocks])
        with ThreadPoolExecutor(min(threads, len(blocks))) as pool:
            return join_rows(list(pool.map(self._encode_block, blocks)))

    def _encode_block(self, texts: Sequence[str]) -> Rows:
        data = [utf8(text) for text in texts]
        if (longest := max(map(len, data), default=0)) > LONGEST_TEXT:
            raise TokenizerError(f"a text of {longest} bytes: encode it in parts of at most 1 GiB")
        text_starts, id_starts = starts_of([len(text) for text in data]), np.empty(len(data) + 1, np.int64)
        ids = np.empty(text_starts[-1] + SLACK, np.int32)
        cache = self._take_cache()
        encode_documents(padded(*data), text_starts, *self._tables, cache, ids, id_starts)
        self._idle.append(cache)
        return Rows(ids[: id_starts[-1]].copy(), id_starts)

    def _take_cache(self) -> PieceCache:
        try:
            return self._idle.pop()
        except IndexError:
            return copy_of(self._first_cache)


def _cache_of(ids: Mapping[bytes, int]) -> PieceCache:
    """A cache that knows the pieces which are one token."""
    cache = new_cache()
    remember_tokens(cache, *laid_out(ids), np.array(list(ids.values()), np.int32))
    return cache


def _blocks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in runs of about BLOCK characters, at least one text each."""
    first = size = 0
    for i, text in enumerate(texts):
        if size >= BLOCK:
            yield texts[first:i]
            first, size = i, 0
        size += len(text)
    yield texts[first:]


class CompiledDecoder:
    """Ids → the bytes of their tokens; those of `silent` tokens are left out."""

    def __init__(self, tokens: Sequence[bytes], silent: Collection[int]) -> None:
        with compiling("decode"):
            self._tables = padded(*tokens), places(tokens, silent)
            self.decode(np.zeros(0, np.int32))

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """(bytes,) uint8 of `ids` (n,), integers that are ids of tokens."""
        return decode(np.array(ids, np.int32), *self._tables)
