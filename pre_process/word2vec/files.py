"""Word vectors in the formats of word2vec.c (.bin, .txt), which gensim reads too, and as a plain matrix (.npy)."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pre_process.arrays import load_array, save_array
from pre_process.files import write_atomic
from pre_process.tokenizer.byte_level import to_visible

if TYPE_CHECKING:
    from pre_process.tokenizer import Tokenizer

_SUFFIXES = (".npy", ".bin", ".txt")


def token_keys(tokenizer: "Tokenizer") -> list[str]:
    """The word under which each token's vector is filed: its bytes as visible characters, " the" → "Ġthe".

    A word2vec file ends a word at the first space, so no key may hold one; `from_visible` gives the bytes back.
    """
    return [to_visible(tokenizer.token_bytes(token_id)) for token_id in range(tokenizer.vocab_size)]


def save_vectors(path: str | Path, vectors: np.ndarray, keys: Sequence[str]) -> None:
    """Write (V, d_model) vectors, atomically; .npy holds the matrix alone, .bin and .txt key and vector of each row.

    Raises ValueError for another suffix, for keys that are too few, repeated or empty, or hold white space.
    """
    path = Path(path)
    if _checked_suffix(path) == ".npy":
        save_array(path, vectors)
        return
    if len(keys) != len(vectors) or len(set(keys)) != len(keys) or any(key.split() != [key] for key in keys):
        raise ValueError(
            f"{len(vectors)} vectors need as many different keys without white space, not these {len(keys)}"
        )
    from gensim.models import KeyedVectors

    words = KeyedVectors(vectors.shape[1])
    words.add_vectors(list(keys), vectors.astype(np.float32))
    for row, key in enumerate(keys):
        words.set_vecattr(key, "count", len(keys) - row)  # gensim writes in falling order of count: keep ours
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / path.name
        words.save_word2vec_format(str(written), binary=path.suffix == ".bin")
        write_atomic(path, written.read_bytes())


def load_vectors(path: str | Path, keys: Sequence[str]) -> np.ndarray:
    """(V, d_model) float32 with row i for keys[i], whatever the order in the file.

    Raises ValueError for a file that is missing, damaged or lacks a key.
    """
    path = Path(path)
    if _checked_suffix(path) == ".npy":
        vectors = load_array(path).astype(np.float32, copy=False)
        if vectors.ndim != 2 or len(vectors) != len(keys):
            raise ValueError(f"{path} has shape {vectors.shape}, not a row for each of {len(keys)} tokens")
        return vectors
    from gensim.models import KeyedVectors

    try:
        if path.suffix == ".txt" and not path.read_bytes().endswith(b"\n"):
            raise EOFError("the last line is cut short")  # gensim would fill it up with its first number
        words = KeyedVectors.load_word2vec_format(str(path), binary=path.suffix == ".bin")
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} can't be read as word vectors ({error})") from error
    if missing := [key for key in keys if key not in words]:
        raise ValueError(f"{path} lacks {len(missing)} of {len(keys)} tokens, among them {missing[0]!r}")
    return np.stack([words[key] for key in keys])


def _checked_suffix(path: Path) -> str:
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"{path}: word vectors are kept in {', '.join(_SUFFIXES)} files")
    return path.suffix
