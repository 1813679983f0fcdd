"""Floor 5. Named arrays in safetensors files, with a hash over their numbers."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from pre_process.files import open_to_readers


class ArraysError(ValueError):
    """A file of arrays that is damaged or something else: one line that names the file and the fault."""


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write name → array as a safetensors file, without a copy of the numbers. Raises OSError, which names `path`.

    Not durable by itself: sync the file, or the folder that it lies in.
    """
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    try:
        safetensors.numpy.save_file(whole, path, metadata={"sha256": _fingerprint(whole)})
        open_to_readers(path)  # the library makes files that only their owner may read
    except SafetensorError as error:
        told = re.search(r"os error (\d+)", str(error))
        code = int(told[1]) if told else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """name → array of a safetensors file. Raises ArraysError, and OSError where it can't be read."""
    content = path.read_bytes()
    try:
        arrays = safetensors.numpy.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        promised = header.get("__metadata__", {}).get("sha256")
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArraysError(f"{path} is damaged or not a safetensors file: {error}") from None
    if promised is not None and promised != _fingerprint(arrays):  # other programs promise nothing
        raise ArraysError(f"{path} is damaged: its numbers are not those that were saved (their hash differs)")
    return arrays


def _fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names and numbers: safetensors itself notices damage in its header only."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
