"""Training, compiled: documents go through threads, each counts into a table of its own, then the merges are learnt."""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pre_process.tokenizer.batch import usable_cores
from pre_process.tokenizer.bpe import Pair
from pre_process.tokenizer.kernels import merging, words
from pre_process.tokenizer.kernels.counting import PieceCounts
from pre_process.tokenizer.kernels.unicode_classes import N_CODE_POINTS
from pre_process.tokenizer.pre_tokenize import PatternName
from pre_process.tokenizer.vocabulary import Vocabulary

BATCH = 1 << 20  # bytes that a thread takes at a time; at this size they stay in its cache
_SURROGATES = slice(0xD800, 0xE000)


class CompiledPieces:
    """The counted pieces of a training text: what train.PythonPieces does, compiled."""

    def __init__(
        self,
        documents: Iterable[bytes],
        pattern: PatternName,
        *,
        threads: int | None,
        counted: Callable[[int], None] | None,
    ) -> None:
        feed = _Feed(_batches(documents), counted)
        tables = _in_threads(functools.partial(_count, feed, pattern), threads or usable_cores(), feed)
        for table in tables[1:]:
            tables[0].absorb(table)
        self._table = tables[0].table

    def __bool__(self) -> bool:
        return bool(self._table.used[0])

    def frequent_characters(self, min_frequency: int) -> list[str]:
        """The characters beyond ASCII that occur so often, sorted; no lone surrogates."""
        counts = words.count_characters(self._table)
        counts[:128] = counts[_SURROGATES] = 0
        return list(map(chr, np.flatnonzero((counts > 0) & (counts >= min_frequency)).tolist()))

    def learn_merges(
        self, start: Vocabulary, *, n_merges: int, min_frequency: int, progress: Callable[[int, int], None] | None
    ) -> list[Pair]:
        """The merges, numbered behind the tokens of `start`."""
        symbols, weights = words.spell(self._table, _symbol_ids(start))
        return merging.learn_merges(
            symbols,
            weights,
            n_merges=n_merges,
            first_id=len(start.tokens),
            min_frequency=min_frequency,
            progress=progress,
        )


def _symbol_ids(start: Vocabulary) -> np.ndarray:
    """The id of each byte, or at character level of each code point: a rare one is an edge, its bytes never merge."""
    if start.level == "byte":
        return np.array(start.byte_ids(bytes(range(256))), np.int32)
    ids = np.full(N_CODE_POINTS, words.EDGE, np.int32)
    ids[:128] = start.byte_ids(bytes(range(128)))
    for token, token_id in start.ids.items():
        if len(token) > 1:
            ids[ord(token.decode())] = token_id
    return ids


def warm_up() -> None:
    """Compile everything. What a first text happens not to need would else be compiled in the middle of a later one."""
    counts, other = PieceCounts("gpt2"), PieceCounts("gpt2")
    other.add([b"warm up"])
    counts.absorb(other)
    counts.grow(1)
    words.count_characters(counts.table)
    merging.learn_merges(*words.spell(counts.table, np.arange(256, dtype=np.int32)), n_merges=1, first_id=256)
    merging.warm_up()


class _Feed:
    """Batches for threads, one at a time; `counted` hears how many bytes have been handed out."""

    def __init__(self, batches: Iterator[list[bytes]], counted: Callable[[int], None] | None) -> None:
        self._batches, self._counted = batches, counted
        self._lock, self._n_bytes, self._stopped = threading.Lock(), 0, False

    def take(self) -> list[bytes] | None:
        """The next batch; None when there is none, or after `stop`."""
        with self._lock:
            batch = None if self._stopped else next(self._batches, None)
            if batch and self._counted:
                self._n_bytes += sum(map(len, batch))
                self._counted(self._n_bytes)
            return batch

    def stop(self) -> None:
        """Let the threads come to an end: one of them has failed, or the user has had enough."""
        self._stopped = True


def _batches(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch, size = list[bytes](), 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _count(feed: _Feed, pattern: PatternName) -> PieceCounts:
    counts = PieceCounts(pattern)
    while (batch := feed.take()) is not None:
        counts.add(batch)
    return counts


def _in_threads(work: Callable[[], PieceCounts], n: int, feed: _Feed) -> list[PieceCounts]:
    """What `work` returns in this thread and in n − 1 others."""
    with ThreadPoolExecutor(max(1, n - 1)) as pool:
        try:
            others = [pool.submit(work) for _ in range(n - 1)]
            return [work(), *(other.result() for other in others)]
        finally:
            feed.stop()
