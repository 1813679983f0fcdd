"""word2vec by our own kernels: blocks of sentences, handed out to threads that all write to the same vectors.

That threads overwrite each other now and then does little harm where each touches few of many rows (Hogwild: Niu and
others 2011). A block's random numbers and learning rate depend on its place alone, not on the thread that takes it.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pre_process.word2vec.id_rows import cut_blocks
from pre_process.word2vec.kernels import END
from pre_process.word2vec.settings import Architecture, Progress, Settings
from pre_process.word2vec.threads import run_jobs

BLOCK = 1 << 14  # words; a few hundredths of a second, in which Ctrl-C must wait


class _Block(NamedTuple):
    ids: np.ndarray
    seed: np.ndarray  # (1,) uint64
    words_before: int  # of all epochs
    words: int


def train(ids: np.ndarray, counts: np.ndarray, settings: Settings, progress: Progress | None) -> np.ndarray:
    """(V, d_model) float32 from ids (n,) int32 (id_rows) and how often each occurs (V,); the same seed, the same bits.

    With several threads only nearly so.
    """
    from pre_process.word2vec.kernels.sentences import Schedule, new_desk

    blocks = cut_blocks(ids, BLOCK)
    model, kernel = _new_model(counts, settings), _kernel(settings.architecture)
    total = int(counts.sum()) * settings.epochs
    schedule, done = Schedule(settings.lr, settings.min_lr, total), [0]

    def new_worker() -> Callable[[_Block], None]:
        desk = new_desk(model.width, settings.window, settings.negative)

        def work(block: _Block) -> None:
            desk.random[:] = block.seed
            kernel(block.ids, block.words_before, schedule, settings.window, settings.negative, model, desk)
            done[0] += block.words

        return work

    report = progress or (lambda done, total: None)
    run_jobs(_passes(blocks, settings), new_worker, min(settings.threads, len(blocks)), lambda: report(done[0], total))
    report(total, total)
    vectors: np.ndarray = model.inputs.reshape(len(counts), model.width)[:, : settings.d_model].copy()
    return vectors


def _passes(blocks: list[np.ndarray], settings: Settings) -> Iterator[_Block]:
    """The blocks, epoch after epoch."""
    words = [int(np.count_nonzero(block != END)) for block in blocks]
    chance, words_before = np.random.default_rng(settings.seed), 0
    for _ in range(settings.epochs):
        for ids, n in zip(blocks, words, strict=True):
            yield _Block(ids, chance.integers(2**64, size=1, dtype=np.uint64), words_before, n)
            words_before += n


def _kernel(architecture: Architecture) -> Any:
    if architecture == "cbow":
        from pre_process.word2vec.kernels.cbow import cbow

        return cbow
    from pre_process.word2vec.kernels.skip_gram import skip_gram

    return skip_gram


def _new_model(counts: np.ndarray, settings: Settings) -> Any:
    """Input vectors drawn from ±½/d, output vectors of zeros, as word2vec.c begins; and the tables of chance."""
    from pre_process.word2vec.kernels.chance import alias_table
    from pre_process.word2vec.kernels.sentences import Model
    from pre_process.word2vec.kernels.vector import padded

    V, width = len(counts), padded(settings.d_model)
    inputs, outputs = _aligned_zeros(V * width), _aligned_zeros(V * width)
    uniform = np.random.default_rng(settings.seed).random((V, settings.d_model), np.float32)
    inputs.reshape(V, width)[:, : settings.d_model] = (uniform - np.float32(0.5)) / np.float32(settings.d_model)
    shares, others = np.empty(V, np.float32), np.empty(V, np.int32)
    alias_table(counts**0.75, shares, others)
    return Model(inputs, outputs, width, keep_probabilities(counts, settings.sample), shares, others)


def keep_probabilities(counts: np.ndarray, sample: float) -> np.ndarray:
    """(V,) float32: √(sample/f) + sample/f for a word that makes up the share f of the corpus; ≥ 1 keeps all.

    The formula of word2vec.c, not the paper's. sample = 0 keeps all.
    """
    if sample == 0:
        return np.ones(len(counts), np.float32)
    ratio = sample * counts.sum() / np.maximum(counts, 1)
    probabilities: np.ndarray = (np.sqrt(ratio) + ratio).astype(np.float32)
    return probabilities


def _aligned_zeros(size: int) -> np.ndarray:
    """Zeros from the beginning of a cache line on, so that no vector lies across two."""
    memory: np.ndarray = np.zeros(4 * size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + 4 * size].view(np.float32)
