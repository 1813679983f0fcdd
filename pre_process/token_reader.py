"""Token files read during a long run: piece by piece, each piece checked.

A memory map is faster to write down and worse to live with: a file that is cut short below a map kills the process
(SIGBUS), and one that is written over changes the training text without a word. Here a piece is open,
read, close: some microseconds. It comes back short where the file was cut, and the file must still be what it was.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pre_process.arrays import HEADER_FAULTS, ArrayFileError
from pre_process.bin_shards import DTYPE, HEADER_BYTES, bin_paths, count_tokens
from pre_process.token_shards import TokenFileError, shard_path


class ShardReader:
    """One file of ids: n tokens of `dtype`, `offset` bytes after its beginning. Open only while it is read."""

    def __init__(self, path: Path, *, dtype: np.dtype, offset: int, length: int) -> None:
        self.path, self.dtype, self.offset, self.length = path, dtype, offset, length
        self._opened_as = _signature(path.stat())

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens start … stop − 1. Raises TokenFileError with file and offset if the file is not what it was."""
        begin = self.offset + start * self.dtype.itemsize
        ids = np.empty(stop - start, self.dtype)
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(begin)
                found = file.readinto(ids.data)
                now = os.fstat(file.fileno())
        except FileNotFoundError:
            raise TokenFileError(f"{self.path} was removed during the run, noticed at byte {begin:,}") from None
        if found != ids.nbytes:
            raise TokenFileError(f"{self.path} was cut to {now.st_size:,} bytes during the run, noticed at {begin:,}")
        if _signature(now) != self._opened_as:
            raise TokenFileError(f"{self.path} was changed or replaced during the run, noticed at byte {begin:,}")
        return ids


def _signature(now: os.stat_result) -> tuple[int, int, int]:
    return now.st_ino, now.st_size, now.st_mtime_ns


class TokenReader:
    """The ids of several shards, read like one array (n,), by length and slice; `vocab_size` bounds every id.

    Reading raises TokenFileError, one line with file and offset, if a shard was cut, changed, replaced or removed
    since it was opened, or holds an id that the vocabulary doesn't have. Threads may read at once.
    """

    def __init__(self, shards: Sequence[ShardReader], vocab_size: int) -> None:
        self._shards, self._vocab_size = shards, vocab_size
        self._starts = np.cumsum([0, *(shard.length for shard in shards)])
        self.dtype = shards[0].dtype

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: slice) -> np.ndarray:
        start, stop, _ = index.indices(len(self))
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        pieces = []
        while start < stop:
            here = int(self._starts[first])
            end = min(stop, int(self._starts[first + 1]))
            pieces.append(self._checked(self._shards[first], start - here, end - here))
            start, first = end, first + 1
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty(0, self.dtype)

    def _checked(self, shard: ShardReader, start: int, stop: int) -> np.ndarray:
        ids = shard.read(start, stop)
        if len(ids) and int(ids.max()) >= self._vocab_size:
            place = int(np.argmax(ids >= self._vocab_size))
            at = shard.offset + (start + place) * shard.dtype.itemsize
            raise TokenFileError(
                f"{shard.path} holds id {ids[place]} at byte {at:,}, but the vocabulary has {self._vocab_size} tokens"
            )
        return ids


def open_reader(folder: str | Path, split: str, *, vocab_size: int) -> TokenReader:
    """The ids of 'train' or 'val' of a folder of .npy or .bin shards. Raises TokenFileError, OSError."""
    folder = Path(folder)
    paths = sorted(folder.glob(f"{split}-*.npy")) or bin_paths(folder, split) or [shard_path(folder, split, 0)]
    try:
        shards = [_open_bin(path) if path.suffix == ".bin" else _open_npy(path) for path in paths]
    except ArrayFileError as error:
        raise TokenFileError(str(error)) from None
    if len({shard.dtype for shard in shards}) > 1:
        raise TokenFileError(f"{folder}: shards of {split} differ in dtype, prepare the folder again")
    return TokenReader(shards, vocab_size)


def _open_bin(path: Path) -> ShardReader:
    return ShardReader(path, dtype=DTYPE, offset=HEADER_BYTES, length=count_tokens(path))


def _open_npy(path: Path) -> ShardReader:
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            offset = file.tell()
    except FileNotFoundError:
        raise TokenFileError(f"{path} is missing") from None
    except HEADER_FAULTS as error:
        raise TokenFileError(f"{path} is damaged or not a .npy file ({error})") from None
    if len(shape) != 1 or dtype.kind != "u" or dtype.itemsize not in (2, 4):
        raise TokenFileError(f"{path} holds {dtype} of shape {shape}, not a row of uint16 or uint32 ids")
    wanted, size = offset + shape[0] * dtype.itemsize, path.stat().st_size
    if size < wanted:
        raise TokenFileError(f"{path} has {size:,} bytes, its header asks for {wanted:,}: it was cut")
    return ShardReader(path, dtype=dtype, offset=offset, length=shape[0])
