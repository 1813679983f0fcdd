"""Which text is held out: whole documents chosen by a hash of their text or, where they are few, the tail of each."""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import msgspec
import numpy as np

from pre_process.token_shards import TokenFileError

BATCH_BYTES = 1 << 23  # of text that is read, and then encoded, together

Documents = Callable[[], Iterator[str]]


class SplitPlan(msgspec.Struct, frozen=True):
    """Whole documents with a low key or, where those are too big, every text's tail."""

    by: Literal["documents", "tails"]
    last_val_key: int
    val_fraction: float
    total_bytes: int

    def parts(self, text: str, key: int | None = None) -> tuple[str, str]:
        """(what to train on, what to validate on); one of them may be empty. `key` is the text's, where it is known."""
        if self.by == "tails":
            cut = _cut(text, self.val_fraction)
            return text[:cut], text[cut:]
        key = _key(utf8(text)) if key is None else key
        return ("", text) if key <= self.last_val_key else (text, "")


def plan_split(documents: Documents, val_fraction: float) -> tuple[SplitPlan, Sequence[int]]:
    """Lowest keys first until validation holds the share nearest to val_fraction. Reads everything, encodes nothing.

    A key depends on the text alone: when others come or go, a document keeps its side (but for a few at the limit),
    and copies are never on both sides. The second result are all documents' keys, in order. Raises ValueError
    (val_fraction), TokenFileError (no text).
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must lie between 0 and 1, not {val_fraction}")
    keys, sizes = array("Q"), array("Q")
    for batch in read_ahead(documents()):
        for content in map(utf8, batch):
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
            return SplitPlan("documents", int(distinct[last]), val_fraction, total), keys
    return SplitPlan("tails", 0, val_fraction, total), keys


def read_ahead(documents: Iterator[str]) -> Iterator[list[str]]:
    """Documents in batches of BATCH_BYTES, each read while the one before is worked on."""
    batches = _batches(documents)
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield batch


def _batches(documents: Iterator[str]) -> Iterator[list[str]]:
    """Lists of documents, BATCH_BYTES long each but for what the last one adds."""
    batch, size = list[str](), 0
    for text in documents:
        batch.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


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
