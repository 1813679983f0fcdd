"""The contestants of benchmarks.word2vec: ours and gensim, each told the same settings and given the same words."""

import hashlib
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pre_process.word2vec import WordCorpus, read_words, train_corpus
from pre_process.word2vec.evaluate import ANALOGIES, evaluate
from pre_process.word2vec.word_vectors import WordVectors

ARCHITECTURES = ("skip-gram", "cbow")
SCAN = "vocabulary"
SIZE, WINDOW, NEGATIVE, MIN_COUNT, SAMPLE, LR = 100, 5, 5, 5, 1e-3, 0.025


class Question(NamedTuple):
    """What a contestant shall do: scan the vocabulary, or train so many epochs; and measure the vectors, or not."""

    what: str
    epochs: int = 1
    seed: int = 0
    measure: bool = False


class Reply(NamedTuple):
    """Seconds; a hash of all words and their counts; raw words and kept ones; the scores, if they were asked for."""

    seconds: float
    vocabulary: str
    n_words: int
    n_kept: int
    scores: dict[str, float]


class Ours:
    """This project's, with its code compiled before the clock runs."""

    def __init__(self, path: Path, threads: int) -> None:
        self.path, self.threads = path, threads
        self.corpus: WordCorpus | None = None
        with tempfile.TemporaryDirectory() as folder:
            small = Path(folder) / "words.txt"
            small.write_text("a b c d e f\n" * 100)
            for what in ARCHITECTURES:
                self.train(self.read(small), Question(what))

    def __call__(self, question: Question) -> Reply:
        start = time.perf_counter()
        if question.what == SCAN or self.corpus is None:
            self.corpus = self.read(self.path)
        vectors = np.zeros((len(self.corpus.words), 0), np.float32)
        words = WordVectors(self.corpus.words, self.corpus.counts, vectors)
        if question.what != SCAN:
            start = time.perf_counter()
            words = self.train(self.corpus, question)
        return reply(time.perf_counter() - start, words, self.corpus.total_words, question)

    def read(self, path: Path) -> WordCorpus:
        """Words, counts and the text as numbers."""
        return read_words([path], split="space", min_count=MIN_COUNT, threads=self.threads)

    def train(self, corpus: WordCorpus, question: Question) -> WordVectors:
        """All of it, from new vectors on."""
        return train_corpus(
            corpus, d_model=SIZE, architecture=question.what, window=WINDOW, negative=NEGATIVE, sample=SAMPLE, lr=LR,
            epochs=question.epochs, seed=question.seed, threads=self.threads,
        )  # fmt: skip


class Gensim:
    """gensim's Word2Vec, the corpus as a file or as lists of words in memory."""

    def __init__(self, path: Path, threads: int, *, as_lists: bool) -> None:
        from gensim.models.word2vec import LineSentence

        self.path, self.threads = path, threads
        self.lists = list(LineSentence(str(path))) if as_lists else None
        self.models: dict[str, Any] = {}  # by architecture, with their vocabulary

    def __call__(self, question: Question) -> Reply:
        from gensim.models.word2vec import LineSentence

        model = self.model(question)
        start = time.perf_counter()
        if question.what == SCAN:  # from the disk, either way
            model.build_vocab(**({"corpus_iterable": LineSentence(str(self.path))} if self.lists else self.source()))
        else:
            totals = {"total_examples": model.corpus_count, "total_words": model.corpus_total_words}
            model.train(**self.source(), **totals, epochs=question.epochs)
        seconds = time.perf_counter() - start
        words = model.wv.index_to_key
        counts = np.array([model.wv.get_vecattr(word, "count") for word in words])
        return reply(seconds, WordVectors(words, counts, model.wv.vectors), model.corpus_total_words, question)

    def source(self) -> dict[str, Any]:
        """The corpus in the form that this contestant was given it."""
        return {"corpus_iterable": self.lists} if self.lists else {"corpus_file": str(self.path)}

    def model(self, question: Question) -> Any:
        """A fresh model to scan with or to measure; else one whose vocabulary is ready."""
        from gensim.models import Word2Vec

        def new() -> Any:
            return Word2Vec(
                vector_size=SIZE, window=WINDOW, negative=NEGATIVE, min_count=MIN_COUNT, sample=SAMPLE, alpha=LR,
                sg=int(question.what == "skip-gram"), workers=self.threads, seed=question.seed + 1,
            )  # fmt: skip

        if question.what == SCAN:
            return new()
        if question.measure or question.what not in self.models:
            self.models[question.what] = new()
            self.models[question.what].build_vocab(**self.source())
        return self.models[question.what]


def reply(seconds: float, words: WordVectors, n_words: int, question: Question) -> Reply:
    """With the hash of the vocabulary, in an order that is the same for all."""
    counted = sorted(zip(words.words, words.counts.tolist(), strict=True))
    vocabulary = hashlib.sha256(repr(counted).encode()).hexdigest()
    scores = measure_vectors(words) if question.measure else {}
    return Reply(seconds, vocabulary, n_words, len(words.words), scores)


def measure_vectors(words: WordVectors) -> dict[str, float]:
    """Test → score; a test of which the vocabulary knows nothing is not a number."""
    found = evaluate(words)
    scores = {name: pairs.spearman for name, pairs in found.pairs.items()} | {ANALOGIES: found.analogies.share}
    return {name: float("nan") if score is None else score for name, score in scores.items()}
