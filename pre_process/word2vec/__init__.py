"""Word vectors: one row for each word or token, learnt from which stand near which (Mikolov et al. 2013).

CBOW predicts a word t from the mean h of its neighbours' input vectors, skip-gram t from each neighbour. Both learn by
negative sampling: with output vectors u and K words n drawn with probability ∝ count^¾,

    maximise  log σ(u_t · h) + Σ_{k ≤ K} log σ(−u_{n_k} · h)

The input vectors are the result. Two engines do the same: "nanograd" (engine.py, kernels/) and "gensim".
"""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pre_process.word2vec.files import load_vectors, save_vectors, token_keys
from pre_process.word2vec.id_rows import join_sentences
from pre_process.word2vec.read_words import Split, WordCorpus, read_words
from pre_process.word2vec.settings import Architecture, Engine, Progress, Settings
from pre_process.word2vec.word_vectors import WordVectors

__all__ = [
    "Settings",
    "WordCorpus",
    "WordVectors",
    "count_tokens",
    "load_vectors",
    "read_words",
    "save_vectors",
    "token_keys",
    "train_corpus",
    "train_embeddings",
    "train_words",
]

_HUGE = 1e4  # no number in a vector that has learnt something is nearly as large


def train_embeddings(
    sentences: Iterable[np.ndarray],
    *,
    vocab_size: int,
    d_model: int,
    engine: Engine = "nanograd",
    architecture: Architecture = "skip-gram",
    zero_ids: Collection[int] = (),
    progress: Progress | None = None,
    **settings: Any,
) -> np.ndarray:
    """(V, d_model) float32 whose row i is the vector of token i; the same seed and one thread give the same bits.

    sentences: 1-D arrays of ids, iterated twice (so a list, not a generator); a context never crosses from one to the
    next. Ids that never occur have nothing to learn from: they get a random direction with the mean length of the
    others (count_tokens(…) == 0 lists them), ids in zero_ids (padding) a zero vector. `settings` are the other fields
    of Settings. progress gets (words done, words in all epochs). Raises ValueError.
    """
    chosen = Settings(d_model=d_model, architecture=architecture, **settings)
    counts = count_tokens(sentences, vocab_size)
    _check_ids(np.array([0, *zero_ids]), vocab_size)
    vectors = _train(engine, join_sentences(sentences), counts, chosen, progress)
    seen, unseen = counts > 0, np.flatnonzero(counts == 0)
    length = np.linalg.norm(vectors[seen], axis=1).mean()
    vectors[unseen] = _random_directions(len(unseen), d_model, chosen.seed) * length
    vectors[list(zero_ids)] = 0
    return vectors


def train_words(
    texts: Iterable[Path | str],
    *,
    min_count: int = 5,
    split: Split = "letters",
    engine: Engine = "nanograd",
    progress: Progress | None = None,
    **settings: Any,
) -> WordVectors:
    """Vectors of the words of files (Path) and documents (str): `read_words`, then `train_corpus`, which see."""
    threads = Settings(**settings).threads  # what is wrong with them is said before the text is read
    corpus = read_words(texts, min_count=min_count, split=split, threads=threads)
    return train_corpus(corpus, engine=engine, progress=progress, **settings)


def train_corpus(
    corpus: WordCorpus, *, engine: Engine = "nanograd", progress: Progress | None = None, **settings: Any
) -> WordVectors:
    """A vector for each word of a corpus. `settings` are the fields of Settings; progress as in `train_embeddings`.

    Raises ValueError, also where the learning rate is so high that vectors grow beyond all bounds.
    """
    vectors = _train(engine, corpus.ids, corpus.counts, Settings(**settings), progress)
    return WordVectors(corpus.words, corpus.counts, vectors)


def count_tokens(sentences: Iterable[np.ndarray], vocab_size: int) -> np.ndarray:
    """(V,) int64: how often each id occurs. Raises ValueError for an id outside the vocabulary or for an iterator."""
    if vocab_size < 1:
        raise ValueError(f"vocab_size must be at least 1, not {vocab_size}")
    if iter(sentences) is sentences:
        raise ValueError("sentences is an iterator, which can be read only once: give a list")
    counts = np.zeros(vocab_size, np.int64)
    for ids in sentences:
        if len(ids):  # an empty array may be of any type
            _check_ids(ids, vocab_size)
            counts += np.bincount(ids, minlength=vocab_size)
    return counts


def _check_ids(ids: np.ndarray, vocab_size: int) -> None:
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(f"ids are integers in one dimension, not {ids.dtype} of shape {ids.shape}")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise ValueError(f"ids from {ids.min()} to {ids.max()} don't fit a vocabulary of {vocab_size} tokens")


def _train(
    engine: Engine, ids: np.ndarray, counts: np.ndarray, settings: Settings, progress: Progress | None
) -> np.ndarray:
    """(V, d_model) float32 by either engine, finite; ids as id_rows makes them. Raises ValueError."""
    if (different := np.count_nonzero(counts)) < 2:
        raise ValueError(f"word2vec needs at least two different words to learn from, and here {different} occurs")
    if engine == "nanograd":
        from pre_process.word2vec.engine import train
    elif engine == "gensim":  # takes more than a second to import
        from pre_process.word2vec.gensim_engine import train
    else:
        raise ValueError(f"no engine {engine!r}: use 'nanograd' or 'gensim'")
    vectors = train(ids, counts, settings, progress)
    if not np.abs(vectors).max() < _HUGE:  # NaN is not below anything
        raise ValueError(f"the vectors grew beyond all bounds: lr = {settings.lr} is too high")
    return vectors


def _random_directions(n: int, d_model: int, seed: int) -> np.ndarray:
    normal: np.ndarray = np.random.default_rng(seed).normal(size=(n, d_model))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return normal
