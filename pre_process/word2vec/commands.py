"""The commands of `python -m pre_process.word2vec` on files of word vectors: evaluate, neighbours, analogy, plot."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from pre_process.terminal import console, short
from pre_process.word2vec.evaluate import evaluate as evaluate_words
from pre_process.word2vec.files import check_writable, load_words
from pre_process.word2vec.map_picture import SUFFIXES, Method, draw_map, groups, positions, unit
from pre_process.word2vec.report import as_record, neighbours_table, print_evaluation
from pre_process.word2vec.word_vectors import WordVectors

SIDE_BY_SIDE = 4  # words whose neighbours fit beside each other


def evaluate(path: Path, *, as_json: bool) -> None:
    """WordSim-353, SimLex-999 and analogies: tables, or one line of JSON."""
    words = load_words(path)
    found = evaluate_words(words)
    if as_json:
        print(
            json.dumps({"file": str(path), "words": len(words.words), "d": words.vectors.shape[1]} | as_record(found))
        )
        return
    screen = console()
    screen.print(f"{path}: {len(words.words):,} words, {words.vectors.shape[1]} dimensions")
    print_evaluation(screen, found)


def neighbours(path: Path, wanted: Sequence[str], n: int) -> None:
    """The nearest words of each, some side by side."""
    _check_number(n)
    words, screen = load_words(path), console()
    found = {word: words.nearest(word, n) for word in wanted}
    for start in range(0, len(found), SIDE_BY_SIDE):
        screen.print(neighbours_table(dict(islice(found.items(), start, start + SIDE_BY_SIDE))))


def analogy(path: Path, a: str, b: str, c: str, n: int) -> None:
    """a is to b as c is to …"""
    _check_number(n)
    console().print(neighbours_table({f"{a} : {b} = {c} : …": load_words(path).analogy(a, b, c, n)}))


def _check_number(n: int) -> None:
    if n < 1:
        raise ValueError(f"--n must be at least 1, not {n}")


def plot(path: Path, out: Path, wanted: Sequence[str], *, top: int, skip: int, method: Method) -> None:
    """Draw a map of the words named, or of `top` frequent ones behind the `skip` most frequent."""
    check_writable(out, SUFFIXES)
    words = load_words(path)
    rows = _rows(words, wanted, top, skip)
    units = unit(words.vectors[rows])
    chosen = [short(words.words[row]) for row in rows]
    title = f"{len(rows)} words of {path.name}, {method}; colours are groups in all {units.shape[1]} dimensions"
    labelled = draw_map(out, chosen, positions(units, method), groups(units), title)
    without = "" if labelled == len(rows) else f", {len(rows) - labelled} without a label for lack of room"
    print(f"{len(rows)} words{without}: {out}")


def _rows(words: WordVectors, wanted: Sequence[str], top: int, skip: int) -> np.ndarray:
    if wanted:
        return np.array([words.row(word) for word in dict.fromkeys(wanted)])
    if top < 1 or skip < 0:
        raise ValueError(f"--top must be at least 1 and --skip at least 0, not {top} and {skip}")
    if skip >= len(words.words):
        raise ValueError(f"--skip {skip:,} leaves none of the {len(words.words):,} words")
    return np.arange(skip, min(skip + top, len(words.words)))
