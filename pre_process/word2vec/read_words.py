"""Text → the words that occur often enough, by falling count, and the corpus as a row of their numbers."""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from pre_process.word2vec.settings import Progress
from pre_process.word2vec.text_blocks import size_of, text_blocks
from pre_process.word2vec.threads import run_jobs

Split = Literal["letters", "space"]
_FIRST_ROWS, _FIRST_BYTES = 1 << 14, 1 << 17


@dataclass(frozen=True, eq=False)
class WordCorpus:
    """What there is to learn from.

    words           V different strings, the most frequent first, equally frequent ones in the order of their letters
    counts          (V,) int64
    ids             (n,) int32: the text as rows of `words`; −1 ends a sentence, words not among them are left out
    total_words     in the text, rare ones included
    distinct_words  in the text, rare ones included
    """

    words: list[str]
    counts: np.ndarray
    ids: np.ndarray
    total_words: int
    distinct_words: int


def read_words(
    texts: Iterable[Path | str],
    *,
    min_count: int = 5,
    split: Split = "letters",
    threads: int = 1,
    progress: Progress | None = None,
) -> WordCorpus:
    """The words that occur at least min_count times. A Path among the texts is a file or folder, a str a document.

    split="letters"  a word is a run of letters, accents and digits, with apostrophes between two of them, in lower
                     case: "Don’t" → "don't". A blank line ends a sentence, a single line end doesn't.
    split="space"    a word is what stands between white space, as it is; a line is a sentence, as in gensim.
    The end of a text ends a sentence too, and so do 10,000 words. Any number of threads gives the same corpus. Memory:
    4 bytes a word, twice as much for a moment, and the different words. progress gets (bytes read, bytes in all; 0 if
    unknown). Raises ValueError (CorpusError for a file).
    """
    if split not in get_args(Split):
        raise ValueError(f"no way to split {split!r}: use 'letters' or 'space'")
    if min_count < 1 or threads < 1:
        raise ValueError(f"min_count and threads must be at least 1, not {min_count} and {threads}")
    scan = _Scan(split)
    scan.read(texts, threads, progress)
    return scan.corpus(min_count)


@functools.cache
def _classes(split: Split) -> np.ndarray:
    """(N_CODE_POINTS,) uint8: what each character is to kernels.words."""
    from pre_process.tokenizer.kernels.unicode_classes import CATEGORIES, N_CODE_POINTS, categories
    from pre_process.word2vec.kernels.words import INSIDE, JOINER, NEWLINE, OTHER, WHITE

    white = [ord(character) for character in map(chr, range(0x3001)) if character.isspace()]  # there are none above
    if split == "letters":
        inside = np.isin(categories(), [i for i, name in enumerate(CATEGORIES) if name[:1] in tuple("LMN")])
        table = np.where(inside, INSIDE, OTHER).astype(np.uint8)
        table[[ord("'"), ord("’")]] = JOINER
    else:
        table = np.full(N_CODE_POINTS, INSIDE, np.uint8)
    table[white] = WHITE
    table[ord("\n")] = NEWLINE
    return table


class _Scan:
    """The numbers that words got in each thread, and the blocks of text as such numbers."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.tables: list[_Table] = []
        self.blocks: dict[int, tuple[_Table, np.ndarray]] = {}

    def read(self, texts: Iterable[Path | str], threads: int, progress: Progress | None) -> None:
        """Number the words of all blocks, each thread in a table of its own."""
        total, done = (size_of(texts) if progress else 0), [0]

        def new_worker() -> Callable[[tuple[int, bytes]], None]:
            table = _Table(self.split)
            self.tables.append(table)

            def work(job: tuple[int, bytes]) -> None:
                self.blocks[job[0]] = table, table.number(job[1])
                done[0] += len(job[1])

            return work

        tick = (lambda: progress(done[0], total)) if progress else (lambda: None)
        run_jobs(enumerate(text_blocks(texts)), new_worker, threads, tick)
        if progress:
            progress(done[0], max(total, done[0]))

    def corpus(self, min_count: int) -> WordCorpus:
        """Put the tables together. The blocks are given up one by one as their ids are copied."""
        from pre_process.word2vec.kernels.words import renumber

        counts = Counter[str]()
        for table in self.tables:
            counts.update(table.counts())
        words = sorted((word for word, n in counts.items() if n >= min_count), key=lambda word: (-counts[word], word))
        _check_vocabulary(counts, words, min_count)
        new_ids = {word: row for row, word in enumerate(words)}
        ids, n = np.empty(sum(len(block) for _, block in self.blocks.values()), np.int32), 0
        for place in sorted(self.blocks):
            table, block = self.blocks.pop(place)
            n = renumber(block, table.new_ids(new_ids), ids, n)
        return WordCorpus(
            words, np.array([counts[word] for word in words], np.int64), ids[:n], counts.total(), len(counts)
        )


def _check_vocabulary(counts: Counter[str], words: list[str], min_count: int) -> None:
    if len(words) > 1:
        return
    if not counts:
        raise ValueError("there is no word in this text")
    (word, n), *_ = counts.most_common(1)
    if len(counts) == 1:
        raise ValueError(f"word2vec needs at least two different words, and here is only {word!r} ({n:,} times)")
    few = "no word" if not words else "only one word"
    raise ValueError(
        f"{few} occurs at least {min_count:,} times (the most frequent, {word!r}, {n:,} times): "
        "give more text or a lower min_count"
    )


class _Table:
    """The different words that one thread has met, numbered as they came."""

    def __init__(self, split: Split) -> None:
        from pre_process.word2vec.kernels.words import no_words

        self.split = split
        self.words = no_words(_FIRST_ROWS, _FIRST_BYTES)
        self.occurrences = np.zeros(0, np.int64)
        self._new_ids: np.ndarray | None = None

    def number(self, block: bytes) -> np.ndarray:
        """(n,) int32: the numbers of a block's words, with ends of sentences."""
        from pre_process.tokenizer.kernels.support import padded
        from pre_process.word2vec.kernels.words import count_ids, scan_words

        text, ids = padded(block), np.empty(len(block) + 1, np.int32)
        at, end, n, lines = 0, len(block), np.zeros(2, np.int64), 2 if self.split == "letters" else 1
        while (at := scan_words(text, at, end, _classes(self.split), lines, self.words, ids, n)) < end:
            self._grow(end - at)
        counts = np.zeros(int(self.words.used[0]), np.int64)
        counts[: len(self.occurrences)] = self.occurrences
        count_ids(ids[: n[0]], counts)
        self.occurrences = counts
        return ids[: n[0]].copy()

    def _grow(self, more_bytes: int) -> None:
        """Four times the rows if a third of them is taken; room for `more_bytes` in any case."""
        from pre_process.word2vec.kernels.words import move_words, no_words

        old, n = self.words, int(self.words.used[0])
        more_rows = 4 if 3 * n > len(old.rows) else 1
        larger = no_words(len(old.rows) * more_rows, len(old.bytes) + more_bytes)
        larger.bytes[: len(old.bytes)] = old.bytes
        larger.starts[: n + 1] = old.starts[: n + 1]
        larger.used[:] = n
        move_words(old, larger)
        self.words = larger

    def spellings(self) -> Iterator[str]:
        """The words in the order of their numbers, in lower case where it is not to matter."""
        text, starts = self.words.bytes.tobytes(), self.words.starts[: self.words.used[0] + 1].tolist()
        for start, end in itertools.pairwise(starts):
            word = text[start:end].decode("utf-8", "surrogatepass")
            yield word.lower().replace("’", "'") if self.split == "letters" else word

    def counts(self) -> Counter[str]:
        """How often each word occurred."""
        counts = Counter[str]()
        for word, n in zip(self.spellings(), self.occurrences.tolist(), strict=True):
            counts[word] += n
        return counts

    def new_ids(self, ids: dict[str, int]) -> np.ndarray:
        """(words,) int32: for each number the row of its word, −1 if it has none."""
        if self._new_ids is None:
            self._new_ids = np.array([ids.get(word, -1) for word in self.spellings()], np.int32)
        return self._new_ids
