"""NumPy arrays in .npy files: written in one step, refused in one line when damaged."""

import io
import tokenize
from pathlib import Path

import numpy as np

from pre_process.files import write_atomic

HEADER_FAULTS = ValueError, EOFError, OverflowError, TypeError, SyntaxError, tokenize.TokenError
"""What NumPy raises for a header, which it reads as a Python expression, that a single flipped bit has changed."""


class ArrayFileError(ValueError):
    """A .npy file that is missing, cut short or something else; the message is one line."""


def save_array(path: str | Path, array: np.ndarray) -> None:
    """Write `array` as .npy, atomically. Raises OSError."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write_atomic(Path(path), content.getvalue())


def open_array(path: str | Path) -> np.ndarray:
    """A read-only memory map of a .npy file; nothing but the header is read. Raises ArrayFileError."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ArrayFileError(f"{path} is missing") from None
    except OSError as error:
        raise ArrayFileError(f"{path} can't be read ({error.strerror or error})") from None
    except HEADER_FAULTS as error:
        if "pickle" in str(error):  # NumPy's guess about any file that it doesn't know
            raise ArrayFileError(f"{path} is damaged or not a .npy file") from None
        raise ArrayFileError(f"{path} is damaged or not a .npy file ({error})") from None
    return array


def load_array(path: str | Path) -> np.ndarray:
    """The whole array of a .npy file, in memory. Raises ArrayFileError."""
    return np.array(open_array(path))
