"""Ids in .npy files: written block by block, so that memory does not grow with them; read as a memory map."""

from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from pre_process.arrays import open_array
from pre_process.files import open_atomic
from pre_process.tokenizer.vocabulary import TokenizerError


def write_ids(path: Path, blocks: Iterable[np.ndarray], *, vocab_size: int) -> int:
    """Write the ids of all blocks (n_i,) as one array (n,) of uint16, or uint32 for large vocabularies; returns n.

    The file appears when all is written, or not at all. Raises OSError.
    """
    dtype, n = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32), 0
    with open_atomic(path) as file:
        _write_header(file, dtype, 0)
        for block in blocks:
            file.write(block.astype(dtype).tobytes())
            n += len(block)
        file.seek(0)
        _write_header(file, dtype, n)
    return n


def _write_header(file: IO[bytes], dtype: "np.dtype[np.generic]", n: int) -> None:
    """NumPy leaves room in a header for the length, which is known last."""
    np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": (n,)})


def read_ids(path: Path) -> np.ndarray:
    """The ids (n,) of a .npy file, as a memory map. Raises ArrayFileError, TokenizerError if they are no row of ids."""
    ids = open_array(path)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise TokenizerError(f"{path}: a row of integer ids is wanted, this is shape {ids.shape} of {ids.dtype}")
    return ids
