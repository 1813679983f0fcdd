"""The file format of word2vec.c (Mikolov 2013), which gensim reads and writes too.

    V d⏎                      the number of words and of numbers in a vector, in decimal
    word x₁ … x_d⏎            .txt: in decimal
    word ␠<4·d bytes>         .bin: float32, little-endian; word2vec.c puts a line break behind each, gensim doesn't

A word ends at the first space, so none may hold one, or a line break. The file says nothing about counts, but by custom
the most frequent word comes first.
"""

import mmap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from pre_process.files import open_atomic

_LONGEST_HEADER = 64  # bytes
_MAPPED = 1 << 24  # bytes of a file that stay in memory once they are read
_WHITE = b" \t\n\v\f\r"
_BROKEN = "surrogateescape"  # word2vec.c cuts long words in the middle of a character: the bytes are kept


def write(path: Path, words: Sequence[str], vectors: np.ndarray) -> None:
    """Write words and their (V, d) vectors, atomically, as gensim would, row by row. Raises ValueError, OSError."""
    keys = [word.encode("utf-8", _BROKEN) for word in words]
    _check(keys, vectors)
    with open_atomic(path) as file:
        file.write(b"%d %d\n" % vectors.shape)
        file.writelines(_binary_rows(keys, vectors) if path.suffix == ".bin" else _text_rows(keys, vectors))


def _check(keys: Sequence[bytes], vectors: np.ndarray) -> None:
    if len(keys) != len(vectors) or len(set(keys)) != len(keys) or any(key.split() != [key] for key in keys):
        raise ValueError(
            f"{len(vectors)} vectors need as many different keys without white space, not these {len(keys)}"
        )
    for key, row in zip(keys, vectors, strict=True):
        if not np.isfinite(row).all():
            raise ValueError(f"the vector of {key.decode(errors='replace')!r} holds NaN or infinity: it is of no use")


def _binary_rows(keys: Sequence[bytes], vectors: np.ndarray) -> Iterator[bytes]:
    for key, row in zip(keys, vectors, strict=True):
        yield key + b" "
        yield row.astype("<f4").tobytes()


def _text_rows(keys: Sequence[bytes], vectors: np.ndarray) -> Iterator[bytes]:
    for key, row in zip(keys, vectors, strict=True):
        yield b"%b %b\n" % (key, " ".join(map(str, row.astype(np.float32))).encode())


def read(path: Path) -> tuple[list[str], np.ndarray]:
    """The words of a file, in its order, and their vectors, (V, d) float32. A second row for a word is left out.

    The matrix is in memory once. Raises ValueError in one line for what is missing, damaged or something else: a file
    that ends early or goes on, a header that lies, a number that is none.
    """
    with path.open("rb") as file:
        n_words, d_model = _header(path, file)
        size, smallest = path.stat().st_size, (4 * d_model if path.suffix == ".bin" else 2 * d_model) + 1
        if n_words * smallest > size:  # before that much memory is asked for
            raise ValueError(
                f"{path} is cut short: {n_words:,} vectors of {d_model} numbers don't fit into {size:,} bytes"
            )
        vectors = np.empty((n_words, d_model), "<f4")
        keys = (_read_binary if path.suffix == ".bin" else _read_text)(path, file, vectors)
    return _first_of_each([_text(key) for key in keys], _checked(path, keys, vectors))


def _header(path: Path, file: IO[bytes]) -> tuple[int, int]:
    line = file.readline(_LONGEST_HEADER)
    numbers = line.split()
    if len(numbers) != 2 or not all(number.isdigit() for number in numbers) or not line.endswith(b"\n"):
        raise ValueError(
            f"{path} is no file of word vectors: its first line must be the numbers of words and dimensions"
        )
    n_words, d_model = map(int, numbers)
    if not n_words or not d_model:
        raise ValueError(f"{path} holds {n_words} vectors of {d_model} numbers: nothing to read")
    return n_words, d_model


def _read_binary(path: Path, file: IO[bytes], vectors: np.ndarray) -> list[bytes]:
    keys, width, target = [], 4 * vectors.shape[1], vectors.data.cast("B")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start, size, kept = file.tell(), len(content), 0
        for row in range(len(vectors)):
            space = content.find(b" ", start)
            if space < 0 or space + 1 + width > size:
                raise ValueError(f"{path} is cut short: of {len(vectors):,} vectors it holds {row:,}")
            keys.append(content[start:space].lstrip(b"\n"))
            start = space + 1 + width
            target[row * width : (row + 1) * width] = content[space + 1 : start]
            if start - kept > _MAPPED and hasattr(content, "madvise"):  # or the file would be in memory as well
                content.madvise(mmap.MADV_DONTNEED, kept, _MAPPED)
                kept += _MAPPED
        if content[start : start + 2] not in (b"", b"\n"):
            raise ValueError(f"{path} goes on behind the {len(vectors):,} vectors that its first line promises")
    return keys


def _read_text(path: Path, file: IO[bytes], vectors: np.ndarray) -> list[bytes]:
    keys = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # NumPy's way to say: there was more than numbers
        for row, line in zip(range(len(vectors)), file, strict=False):
            key, _, numbers = line.strip(_WHITE).partition(b" ")
            if not line.endswith(b"\n"):
                raise ValueError(f"{path} is cut short in line {row + 2}")
            vectors[row] = _numbers(path, row, numbers, vectors.shape[1])
            keys.append(key)
    if len(keys) < len(vectors):
        raise ValueError(f"{path} is cut short: of {len(vectors):,} vectors it holds {len(keys):,}")
    if file.readline().strip():
        raise ValueError(f"{path} goes on behind the {len(vectors):,} vectors that its first line promises")
    return keys


def _numbers(path: Path, row: int, line: bytes, d_model: int) -> np.ndarray:
    try:
        numbers: np.ndarray = np.fromstring(line, np.float32, sep=" ")
    except (DeprecationWarning, ValueError):
        raise ValueError(f"{path}, line {row + 2}: something in it is not a number") from None
    if len(numbers) != d_model:
        raise ValueError(f"{path}, line {row + 2}: {len(numbers)} numbers, the first line promises {d_model}")
    return numbers


def _checked(path: Path, keys: Sequence[bytes], vectors: np.ndarray) -> np.ndarray:
    for row, key in enumerate(keys):
        if not key:
            raise ValueError(f"{path} is damaged: vector {row + 1} has no word")
        if not np.isfinite(vectors[row]).all():
            raise ValueError(f"{path} is damaged: the vector of {_text(key)!r} holds NaN or infinity")
    return vectors


def _text(key: bytes) -> str:
    return key.decode("utf-8", _BROKEN)


def _first_of_each(words: list[str], vectors: np.ndarray) -> tuple[list[str], np.ndarray]:
    first: dict[str, int] = {}
    for row, word in enumerate(words):
        first.setdefault(word, row)
    return (words, vectors) if len(first) == len(words) else (list(first), vectors[list(first.values())])
