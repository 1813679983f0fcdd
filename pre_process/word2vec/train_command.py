"""`python -m pre_process.word2vec train`: text files, or a folder of token ids, → a file of word vectors."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from pre_process.terminal import console
from pre_process.token_shards import open_tokens, read_manifest
from pre_process.tokenizer import Tokenizer
from pre_process.word2vec import Settings, read_words, train_corpus, train_embeddings
from pre_process.word2vec.files import SUFFIXES, WORD_SUFFIXES, check_writable, save_vectors, save_words, token_keys
from pre_process.word2vec.read_words import Split
from pre_process.word2vec.report import print_training, progress_bar, thousands
from pre_process.word2vec.settings import Engine
from pre_process.word2vec.word_vectors import WordVectors

SENTENCE = 1000  # tokens that are learnt from together; in a token folder the documents lie end to end


def train_on_text(
    sources: Sequence[Path],
    out: Path,
    settings: Settings,
    *,
    engine: Engine,
    split: Split = "letters",
    min_count: int = 5,
) -> None:
    """Learn vectors of the words in text files, or folders of them; write `out`. Raises ValueError, OSError."""
    check_writable(out, WORD_SUFFIXES)
    with progress_bar() as show:
        began = time.perf_counter()
        corpus = read_words(
            sources, min_count=min_count, split=split, threads=settings.threads, progress=partial(show, "reading bytes")
        )
        show("training words", 0, 0)  # gensim is silent until the end of an epoch
        reading, began = time.perf_counter() - began, time.perf_counter()
        words = train_corpus(corpus, engine=engine, progress=partial(show, "training words"), **asdict(settings))
        training = time.perf_counter() - began
    save_words(out, words)
    n, share = corpus.total_words, corpus.counts.sum() / corpus.total_words
    rows = [
        ("read", f"{n:,} words, {corpus.distinct_words:,} different ones, in {reading:.1f} s"),
        ("kept", f"{len(words.words):,} different ones that occur {min_count} times or more, {share:.1%} of all words"),
        _trained("words", n * settings.epochs, training),
    ]
    print_training(console(), rows, words)
    print(f"next: python -m pre_process.word2vec evaluate {shlex.quote(str(out))}")


def train_on_tokens(folder: Path, out: Path, settings: Settings, *, engine: Engine) -> None:
    """Learn a vector for each token of a token folder's vocabulary, row i for token i. Raises ValueError, OSError."""
    check_writable(out, SUFFIXES)
    manifest, keys = read_manifest(folder), token_keys(Tokenizer.load(folder))
    ids = open_tokens(folder, "train")[:]
    sentences = [ids[start : start + SENTENCE] for start in range(0, len(ids), SENTENCE)]
    with progress_bar() as show:
        show("training tokens", 0, 0)
        began = time.perf_counter()
        vectors = train_embeddings(
            sentences, vocab_size=manifest.vocab_size, engine=engine, progress=partial(show, "training tokens"),
            **asdict(settings),
        )  # fmt: skip
        training = time.perf_counter() - began
    save_vectors(out, vectors, keys)
    counts = np.bincount(ids, minlength=len(keys))
    rows = [
        ("read", f"{len(ids):,} tokens"),
        ("kept", f"{len(keys):,} different ones, {np.count_nonzero(counts == 0):,} of them never seen"),
        _trained("tokens", len(ids) * settings.epochs, training),
    ]
    order = np.argsort(-counts, kind="stable")
    words = WordVectors([keys[row] for row in order], counts[order], vectors[order])
    print_training(console(), rows, words)
    if out.suffix != ".npy":
        print(f"next: python -m pre_process.word2vec neighbours {shlex.quote(str(out))} {shlex.quote(words.words[0])}")


def _trained(things: str, n: int, seconds: float) -> tuple[str, str]:
    return "trained", f"{seconds:.1f} s, {thousands(n / seconds)} {things}/s over all epochs"
