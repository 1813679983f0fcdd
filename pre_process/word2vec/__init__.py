"""Word vectors for token ids: one row for each id, learnt from which tokens stand near which (Mikolov et al. 2013).

CBOW predicts a token t from the mean h of its neighbours' input vectors, skip-gram each neighbour from t. Both learn by
negative sampling: with output vectors u and K tokens n drawn with probability ∝ count^¾,

    maximise  log σ(u_t · h) + Σ_{k ≤ K} log σ(−u_{n_k} · h)

The input vectors are the result.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Literal

import numpy as np

from pre_process.word2vec.files import load_vectors, save_vectors, token_keys

__all__ = ["count_tokens", "load_vectors", "save_vectors", "token_keys", "train_embeddings"]


def train_embeddings(
    sentences: Iterable[np.ndarray],
    *,
    vocab_size: int,
    d_model: int,
    engine: Literal["gensim"] = "gensim",
    architecture: Literal["cbow", "skip-gram"] = "cbow",
    window: int = 5,
    epochs: int = 10,
    seed: int = 0,
    zero_ids: Collection[int] = (),
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """(V, d_model) float32 whose row i is the vector of token i; the same seed gives the same bits.

    sentences: 1-D arrays of ids, iterated 1 + epochs times (so a list, not a generator); a context never crosses from
    one to the next. Ids that never occur have nothing to learn from: they get a random direction with the mean length
    of the others (count_tokens(…) == 0 lists them), ids in zero_ids (padding) a zero vector. progress gets
    (epochs done, epochs). Raises ValueError.
    """
    if engine != "gensim" or architecture not in ("cbow", "skip-gram"):
        raise ValueError(
            f"no engine {engine!r} with architecture {architecture!r}: use 'gensim', 'cbow' or 'skip-gram'"
        )
    for name, value in {"vocab_size": vocab_size, "d_model": d_model, "window": window, "epochs": epochs}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    counts = count_tokens(sentences, vocab_size)
    seen = np.flatnonzero(counts)
    if len(seen) == 0:
        raise ValueError("word2vec needs at least one token to learn from")

    from pre_process.word2vec.gensim_engine import train  # gensim takes more than a second to import

    vectors = np.empty((vocab_size, d_model), np.float32)
    vectors[seen] = train(sentences, counts, seen, d_model, architecture, window, epochs, seed, progress)
    unseen = np.flatnonzero(counts == 0)
    vectors[unseen] = _random_directions(len(unseen), d_model, seed) * np.linalg.norm(vectors[seen], axis=1).mean()
    vectors[list(zero_ids)] = 0
    return vectors


def count_tokens(sentences: Iterable[np.ndarray], vocab_size: int) -> np.ndarray:
    """(V,) int64: how often each id occurs. Raises ValueError for an id outside the vocabulary or for an iterator."""
    if iter(sentences) is sentences:
        raise ValueError("sentences is an iterator, which can be read only once: give a list")
    counts = np.zeros(vocab_size, np.int64)
    for ids in sentences:
        if len(ids) and (ids.min() < 0 or ids.max() >= vocab_size):
            raise ValueError(f"ids from {ids.min()} to {ids.max()} don't fit a vocabulary of {vocab_size} tokens")
        counts += np.bincount(ids, minlength=vocab_size)
    return counts


def _random_directions(n: int, d_model: int, seed: int) -> np.ndarray:
    normal: np.ndarray = np.random.default_rng(seed).normal(size=(n, d_model))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return normal
