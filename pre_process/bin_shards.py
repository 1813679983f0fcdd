"""Token shards with a header of 256 integers: the .bin files of llm.c and modded-nanogpt, read and written.

256 int32, little-endian: the magic number 20240520, version 1, the number of tokens, zeros. Then the tokens as uint16.
Source of the format: write_datafile in data/data_common.py of github.com/karpathy/llm.c.
"""

import os
from pathlib import Path

import numpy as np

from pre_process.arrays import ArrayFileError
from pre_process.files import open_atomic

MAGIC, VERSION = 20240520, 1
HEADER_BYTES = 256 * 4
DTYPE = np.dtype("<u2")


def write_bin(path: str | Path, ids: np.ndarray) -> None:
    """Write ids (n,) as one shard, atomically. Raises ValueError for ids that 16 bits don't hold, OSError."""
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < 1 << 16:
        raise ValueError(f"{path}: ids {ids.min()} to {ids.max()} don't fit into 16 bits")
    header = np.zeros(256, "<i4")
    header[:3] = MAGIC, VERSION, len(ids)
    with open_atomic(Path(path)) as file:
        file.write(header.tobytes())
        file.write(np.ascontiguousarray(ids, DTYPE).data)


def count_tokens(path: str | Path) -> int:
    """What the header says, once it and the length of the file agree. Raises ArrayFileError."""
    try:
        with Path(path).open("rb") as file:
            header, size = file.read(HEADER_BYTES), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ArrayFileError(f"{path} can't be read: {error.strerror}") from None
    if len(header) < HEADER_BYTES:
        raise ArrayFileError(f"{path} has {size} bytes, a shard's header alone has {HEADER_BYTES}")
    magic, version, count = map(int, np.frombuffer(header, "<i4", 3))
    if (magic, version) != (MAGIC, VERSION):
        raise ArrayFileError(f"{path} is no shard: it begins with {magic} {version}, not with {MAGIC} {VERSION}")
    if size != HEADER_BYTES + DTYPE.itemsize * count:
        held = (size - HEADER_BYTES) / DTYPE.itemsize
        raise ArrayFileError(f"{path} holds {held:,.10g} tokens, its header says {count:,}: it was cut or changed")
    return count


def open_bin(path: str | Path) -> np.ndarray:
    """The ids (n,) uint16 of a shard, mapped from disk; nothing but the header is read. Raises ArrayFileError."""
    count = count_tokens(path)
    if not count:  # nothing can't be mapped
        return np.empty(0, DTYPE)
    return np.memmap(path, DTYPE, mode="r", offset=HEADER_BYTES, shape=(count,))


def bin_paths(folder: str | Path, split: str) -> list[Path]:
    """The shards of 'train' or of 'val', in order: every .bin file of the folder with that word in its name."""
    return sorted(path for path in Path(folder).glob("*.bin") if split in path.stem.replace("-", "_").split("_"))
