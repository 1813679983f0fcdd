"""Word vectors on disk: .bin and .txt as word2vec.c and gensim have them, or a plain matrix (.npy).

Not by gensim: importing it takes ten times as long as reading 30,000 words, and it does not notice a line that was cut,
NaN, or a file that goes on behind its end.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pre_process.arrays import load_array, save_array
from pre_process.files import check_replaceable, hidden_name_as
from pre_process.tokenizer.byte_level import to_visible
from pre_process.word2vec import word2vec_format
from pre_process.word2vec.word_vectors import WordVectors

if TYPE_CHECKING:
    from pre_process.tokenizer import Tokenizer

WORD_SUFFIXES = (".bin", ".txt")
SUFFIXES = (".npy", *WORD_SUFFIXES)


def token_keys(tokenizer: "Tokenizer") -> list[str]:
    """The word under which each token's vector is filed: its bytes as visible characters, " the" → "Ġthe".

    A word2vec file ends a word at the first space, so no key may hold one; `from_visible` gives the bytes back.
    """
    return [to_visible(tokenizer.token_bytes(token_id)) for token_id in range(tokenizer.vocab_size)]


def save_vectors(path: str | Path, vectors: np.ndarray, keys: Sequence[str]) -> None:
    """Write (V, d_model) vectors, atomically; .npy holds the matrix alone, .bin and .txt key and vector of each row.

    Raises OSError; ValueError for another suffix, NaN, keys that are too few, repeated or empty, or hold white space.
    """
    path = Path(path)
    if _checked_suffix(path) == ".npy":
        save_array(path, vectors)
    else:
        word2vec_format.write(path, keys, vectors)


def load_vectors(path: str | Path, keys: Sequence[str], *, d_model: int | None = None) -> np.ndarray:
    """(V, d_model) float32 with row i for keys[i], whatever the order in the file.

    Raises ValueError for a file that is missing, damaged or lacks a key, or whose vectors have another length.
    """
    path = Path(path)
    if _checked_suffix(path) != ".npy":
        return _rows(path, load_words(path, d_model=d_model), keys)
    vectors = load_array(path).astype(np.float32, copy=False)
    if vectors.ndim != 2 or len(vectors) != len(keys):
        raise ValueError(f"{path} has shape {vectors.shape}, not a row for each of {len(keys)} tokens")
    if not np.isfinite(vectors).all():
        raise ValueError(f"{path} is damaged: it holds NaN or infinity")
    _check_dimension(path, vectors, d_model)
    return vectors


def _rows(path: Path, words: WordVectors, keys: Sequence[str]) -> np.ndarray:
    if words.words == list(keys):
        return words.vectors
    if missing := [key for key in keys if key not in words.index]:
        raise ValueError(f"{path} lacks {len(missing)} of {len(keys)} tokens, among them {missing[0]!r}")
    return words.vectors[[words.index[key] for key in keys]]


def save_words(path: str | Path, words: WordVectors) -> None:
    """Write words and vectors as .bin or .txt, atomically, the most frequent first; counts have no place there.

    Raises ValueError, OSError.
    """
    path = Path(path)
    _check_holds_words(path)
    word2vec_format.write(path, words.words, words.vectors)


def load_words(path: str | Path, *, d_model: int | None = None) -> WordVectors:
    """The words of a .bin or .txt file in its order, which is by falling count; the counts themselves are unknown, 0.

    Raises ValueError for a file that is missing or damaged, or whose vectors aren't d_model long.
    """
    path = Path(path)
    _check_holds_words(path)
    try:
        words, vectors = word2vec_format.read(path)
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror})") from error
    _check_dimension(path, vectors, d_model)
    return WordVectors(words, np.zeros(len(words), np.int64), vectors)


def check_writable(path: str | Path, suffixes: Sequence[str] = WORD_SUFFIXES) -> None:
    """Raise now what writing `path` would meet after the work: ValueError for its suffix, OSError for its folder."""
    path = Path(path)
    if path.suffix not in suffixes:
        raise ValueError(f"{path}: the name must end with {' or '.join(suffixes)}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file to write")
    check_replaceable(path)
    with hidden_name_as(path), tempfile.TemporaryFile(dir=path.parent):
        pass


def _check_dimension(path: Path, vectors: np.ndarray, d_model: int | None) -> None:
    if d_model is not None and vectors.shape[1] != d_model:
        raise ValueError(f"{path} has vectors of {vectors.shape[1]} numbers, {d_model} are wanted")


def _check_holds_words(path: Path) -> None:
    if _checked_suffix(path) == ".npy":
        raise ValueError(f"{path}: a .npy file has no place for words, use .bin or .txt")


def _checked_suffix(path: Path) -> str:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: word vectors are kept in {', '.join(SUFFIXES)} files")
    return path.suffix
