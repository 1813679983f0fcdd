"""word2vec by gensim, in the order of our ids.

gensim numbers its words by frequency: asked for "row 300", it gives the 300th most frequent word, not word 300. That is
put right here and nowhere else.
"""

from collections.abc import Iterator

import numpy as np
from gensim.models import Word2Vec
from gensim.models.callbacks import CallbackAny2Vec

from pre_process.word2vec.id_rows import split_sentences
from pre_process.word2vec.settings import Progress, Settings


class _Words:
    """The sentences as gensim wants them: lists of words, here the ids in decimal."""

    def __init__(self, ids: np.ndarray, names: list[str]) -> None:
        self.ids, self.names = ids, names

    def __iter__(self) -> Iterator[list[str]]:
        for sentence in split_sentences(self.ids):
            yield [self.names[word] for word in sentence.tolist()]


class _Progress(CallbackAny2Vec):  # type: ignore[misc]  # gensim has no types
    def __init__(self, report: Progress, words: int, epochs: int) -> None:
        self.report, self.words, self.total, self.done = report, words, words * epochs, 0

    def on_epoch_end(self, model: Word2Vec) -> None:
        self.done += self.words
        self.report(self.done, self.total)


def train(ids: np.ndarray, counts: np.ndarray, settings: Settings, progress: Progress | None) -> np.ndarray:
    """As engine.train; rows of ids that never occur are zeros. progress is called after each epoch."""
    names, total = [str(word) for word in range(len(counts))], int(counts.sum())
    words = _Words(ids, names)
    model = Word2Vec(
        vector_size=settings.d_model,
        sg=int(settings.architecture == "skip-gram"),
        window=settings.window,
        negative=settings.negative,
        sample=settings.sample,
        alpha=settings.lr,
        min_alpha=settings.min_lr,
        min_count=1,
        seed=settings.seed,
        workers=settings.threads,
    )
    seen = np.flatnonzero(counts).tolist()
    n_sentences = sum(1 for _ in split_sentences(ids))
    model.build_vocab_from_freq({names[word]: int(counts[word]) for word in seen}, corpus_count=n_sentences)
    callbacks = [_Progress(progress, total, settings.epochs)] if progress else []
    model.train(words, total_examples=n_sentences, total_words=total, epochs=settings.epochs, callbacks=callbacks)
    vectors = np.zeros((len(counts), settings.d_model), np.float32)
    vectors[seen] = [model.wv[names[word]] for word in seen]
    return vectors
