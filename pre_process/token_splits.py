"""Which text is held out: whole documents chosen by a hash of their text or, where they are few, the tail of each."""

import hashlib
from array import array
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec
import numpy as np

from pre_process.token_shards import TokenFileError

Documents = Callable[[], Iterator[str]]


class SplitPlan(msgspec.Struct, frozen=True):
    """Whole documents with a low key or, where those are too big, every text's tail."""

    by: Literal["documents", "tails"]
    last_val_key: int
    val_fraction: float
    total_bytes: int

    def parts(self, text: str) -> tuple[str, str]:
        """(what to train on, what to validate on); one of them may be empty."""
        if self.by == "tails":
            cut = _cut(text, self.val_fraction)
            return text[:cut], text[cut:]
        return ("", text) if _key(utf8(text)) <= self.last_val_key else (text, "")


def plan_split(documents: Documents, val_fraction: float) -> SplitPlan:
    """Lowest keys first until validation holds the share nearest to val_fraction. Reads everything, encodes nothing.

    A key depends on the text alone: when others come or go, a document keeps its side (but for a few at the limit),
    and copies are never on both sides. Raises ValueError (val_fraction), TokenFileError (no text).
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must lie between 0 and 1, not {val_fraction}")
    keys, sizes = array("Q"), array("Q")
    for text in documents():
        content = utf8(text)
        keys.append(_key(content))
        sizes.append(len(content))
    total = sum(sizes)
    if total == 0:
        raise TokenFileError("there is no text to encode")
    distinct, position = np.unique(np.array(keys, np.uint64), return_inverse=True)
    shares = np.cumsum(np.bincount(position, weights=np.array(sizes, np.float64))) / total
    if len(distinct) > 1:
        last = int(np.abs(shares[:-1] - val_fraction).argmin())
        if shares[last] <= 2 * val_fraction:
            return SplitPlan("documents", int(distinct[last]), val_fraction, total)
    return SplitPlan("tails", 0, val_fraction, total)


def utf8(text: str) -> bytes:
    """The bytes of a text, lone surrogates included."""
    return text.encode(errors="surrogatepass")


def _key(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8])


def _cut(text: str, val_fraction: float) -> int:
    """Where the tail begins: after the last paragraph, line or word that ends shortly before its share of the text."""
    target = round(len(text) * (1 - val_fraction))
    reach = (len(text) - target) // 2
    for boundary in ("\n\n", "\n", " "):
        if (found := text.rfind(boundary, target - reach, target)) > 0:
            return found + len(boundary)
    return target
