"""word2vec by gensim, in token order.

gensim numbers its words by frequency: asked for "row 300", it gives the 300th most frequent word, not token 300. And
it silently drops what comes after the first 10,000 words of a sentence. Both are put right here and nowhere else.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from gensim.models import Word2Vec
from gensim.models.callbacks import CallbackAny2Vec
from gensim.models.word2vec import MAX_WORDS_IN_BATCH


class _Words:
    """The sentences as gensim wants them: lists of words, here the ids in decimal, none longer than it reads."""

    def __init__(self, sentences: Iterable[np.ndarray], vocab_size: int) -> None:
        self.sentences = sentences
        self.names = [str(token_id) for token_id in range(vocab_size)]

    def __iter__(self) -> Iterator[list[str]]:
        for ids in self.sentences:
            for start in range(0, len(ids), MAX_WORDS_IN_BATCH):
                yield [self.names[token_id] for token_id in ids[start : start + MAX_WORDS_IN_BATCH].tolist()]


class _Progress(CallbackAny2Vec):  # type: ignore[misc]  # gensim has no types
    def __init__(self, report: Callable[[int, int], None], epochs: int) -> None:
        self.report, self.epochs, self.done = report, epochs, 0

    def on_epoch_end(self, model: Word2Vec) -> None:
        self.done += 1
        self.report(self.done, self.epochs)


def train(
    sentences: Iterable[np.ndarray],
    counts: np.ndarray,
    seen: np.ndarray,
    d_model: int,
    architecture: str,
    window: int,
    epochs: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """(len(seen), d_model) float32, in the order of `seen`. One worker: with more the result depends on chance."""
    words = _Words(sentences, len(counts))
    model = Word2Vec(
        vector_size=d_model, sg=int(architecture == "skip-gram"), window=window, min_count=1, seed=seed, workers=1
    )
    frequencies = {words.names[token_id]: int(counts[token_id]) for token_id in seen}
    model.build_vocab_from_freq(frequencies, corpus_count=sum(1 for _ in words))
    callbacks = [_Progress(progress, epochs)] if progress else []
    model.train(
        words, total_examples=model.corpus_count, total_words=int(counts.sum()), epochs=epochs, callbacks=callbacks
    )
    return np.stack([model.wv[words.names[token_id]] for token_id in seen])
