"""word2vec on nanograd's autograd: the model and its loss alone, for reading. Training for use is `train_embeddings`.

Every token has an input vector v and an output vector u. Around a token t stand the neighbours c₁ … c_n, and K noise
tokens n₁ … n_K are drawn with probability ∝ count^¾. What the neighbours predict, h, shall tell t from the noise:

    L = Σ_h ( −log σ(u_t · h) − Σ_k log σ(−u_{n_k} · h) ),   σ(z) = 1 / (1 + e⁻ᶻ)

Skip-gram has one h for each neighbour, v_c; CBOW has a single one, the mean of the v_c. Mikolov et al. 2013,
arXiv:1310.4546, equation 4, with the roles of word2vec.c: the paper predicts c from t, but every pair has both roles.

>>> text = [np.array([0, 1, 2]), np.array([0, 3, 2])] * 50    # 1 and 3 stand in the same places
>>> vectors = train(SkipGram, text, vocab_size=4, d_model=8, epochs=10, lr=0.2, sample=0)
>>> bool(vectors[1] @ vectors[3] > vectors[1] @ vectors[0])
True
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np

from nanograd import Tensor, nn, ops
from pre_process.word2vec import count_tokens


class Word2Vec(nn.Module, ABC):
    """Two vectors for each token, and the loss of one window.

    inputs   (V, C) the result: drawn as in word2vec.c, uniformly within ±0.5/C
    outputs  (V, C) zeros: at first, everything is as likely as not
    """

    def __init__(self, vocab_size: int, d_model: int, *, rng: np.random.Generator) -> None:
        self.inputs = nn.Parameter(rng.uniform(-0.5 / d_model, 0.5 / d_model, (vocab_size, d_model)).astype(np.float32))
        self.outputs = nn.Parameter(np.zeros((vocab_size, d_model), np.float32))

    @abstractmethod
    def predictors(self, vectors: Tensor) -> Tensor:
        """The h that stand in the loss, from the neighbours' input vectors.   (n, C) → (n or 1, C)"""

    def forward(self, token: int, neighbours: np.ndarray, noise: np.ndarray) -> Tensor:
        """Loss of one window, summed, not averaged.   token t, neighbours (n,), noise (K,) ids → ()

        Noise that happens to be t says nothing and is left out, as in word2vec.c.
        """
        h = self.predictors(ops.embedding(self.inputs, neighbours))
        told = np.concatenate([[token], noise[noise != token]])  # (1 + K,) what each h has to tell apart
        sign = np.where(told == token, 1, -1).astype(h.dtype)
        scores = h @ ops.embedding(self.outputs, told).T  # (n or 1, 1 + K)
        return ops.sum(minus_log_sigmoid(sign * scores))


class SkipGram(Word2Vec):
    """Each neighbour by itself predicts the token."""

    def predictors(self, vectors: Tensor) -> Tensor:
        return vectors


class CBOW(Word2Vec):
    """The neighbours predict the token together: a continuous bag of words."""

    def predictors(self, vectors: Tensor) -> Tensor:
        return ops.mean(vectors, axis=0, keepdims=True)


def minus_log_sigmoid(z: Tensor) -> Tensor:
    """−log σ(z) = log(1 + e⁻ᶻ) = log(e⁰ + e⁻ᶻ), which a logsumexp computes without overflow, for any z."""
    return ops.logsumexp(ops.stack(0 * z, -z), axis=0)


def train(
    model: type[Word2Vec],
    sentences: Sequence[np.ndarray],
    *,
    vocab_size: int,
    d_model: int,
    window: int = 5,
    negative: int = 5,
    epochs: int = 5,
    sample: float = 1e-3,
    lr: float = 0.025,
    seed: int = 0,
) -> np.ndarray:
    """(vocab_size, d_model) float32, row i for token i, by one step of gradient descent for each window.

    sentences: 1-D arrays of ids; sample: as `keep_probability`; lr falls linearly to zero. Raises ValueError for ids
    outside the vocabulary, or without any. Some thousand windows a second: for thousands of words, no more.
    """
    counts, rng = count_tokens(sentences, vocab_size), np.random.default_rng(seed)
    if not counts.any():
        raise ValueError("word2vec needs at least one token to learn from")
    keep, noise = keep_probability(counts, sample), np.cumsum(counts**0.75)
    learner, steps = model(vocab_size, d_model, rng=rng), epochs * len(sentences)
    for step in range(steps):
        ids = sentences[step % len(sentences)]
        kept = ids[rng.random(len(ids)) < keep[ids]]
        for token, neighbours in windows(kept, window, rng):
            drawn = np.searchsorted(noise, noise[-1] * rng.random(negative), side="right")
            learner.zero_grad()
            learner(token, neighbours, drawn).backward()
            for _, parameter in learner.named_parameters():
                if parameter.grad is not None:
                    parameter.data -= lr * (1 - step / steps) * parameter.grad
    return np.asarray(learner.inputs.numpy())


def windows(ids: np.ndarray, window: int, rng: np.random.Generator) -> Iterator[tuple[int, np.ndarray]]:
    """(token, its neighbours) from left to right, 1 to `window` on each side: the nearest are seen most often."""
    for i, token in enumerate(ids):
        reach = rng.integers(1, window, endpoint=True)
        neighbours = np.concatenate([ids[max(0, i - reach) : i], ids[i + 1 : i + 1 + reach]])
        if len(neighbours):
            yield int(token), neighbours


def keep_probability(counts: np.ndarray, sample: float) -> np.ndarray:
    """(V,) √(s/f) + s/f, at most 1, for a token of frequency f (word2vec.c): "the" says little about its neighbours."""
    if not sample:
        return np.ones(len(counts))
    ratio = sample * counts.sum() / np.maximum(counts, 1)
    return np.asarray(np.minimum(np.sqrt(ratio) + ratio, 1))
