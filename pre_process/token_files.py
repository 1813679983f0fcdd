"""Token ids on disk: train.npy and val.npy, memory-mapped when read, with a manifest that says what they are."""

import hashlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import msgspec
import numpy as np

from pre_process.arrays import ArrayFileError, open_array
from pre_process.files import new_folder, sha256_file, write_atomic

if TYPE_CHECKING:
    from pre_process.tokenizer import Tokenizer

FORMAT_VERSION = 1
_IDS_PER_CHECK = 1 << 22
Documents = Callable[[], Iterator[str]]


class TokenFileError(ValueError):
    """Token files that can't be written or used; the message is one line."""


class SplitCounts(msgspec.Struct, frozen=True):
    """What one .npy file holds: documents (or parts of them), ids with end-of-text, UTF-8 bytes of the text."""

    documents: int
    tokens: int
    bytes: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """manifest.json of a token folder."""

    format_version: int
    source: str
    source_sha256: str
    tokenizer_sha256: str
    vocab_size: int
    dtype: Literal["uint16", "uint32"]
    split_by: Literal["documents", "tails"]
    splits: dict[str, SplitCounts]


class _Split(msgspec.Struct, frozen=True):
    """Which text goes to validation: whole documents with a low key or, where those are too big, every text's tail."""

    by: Literal["documents", "tails"]
    last_val_key: int
    val_fraction: float
    total_bytes: int

    def parts(self, text: str) -> tuple[str, str]:
        """(what to train on, what to validate on); one of them may be empty."""
        if self.by == "tails":
            cut = _cut(text, self.val_fraction)
            return text[:cut], text[cut:]
        return ("", text) if _key(text) <= self.last_val_key else (text, "")


def write_tokens(
    folder: Path,
    documents: Documents,
    tokenizer: "Tokenizer",
    *,
    source: str,
    source_sha256: str,
    val_fraction: float = 0.05,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Encode all documents into folder/train.npy and folder/val.npy (1-D), an end-of-text id after each document.

    documents() is called twice: once to plan the split, once to encode; memory holds one document at a time and 16
    bytes for each. progress gets (bytes encoded, bytes in all). The folder appears complete or not at all, with
    manifest.json and tokenizer.json in it; one that is there already is kept, checked and described instead.
    Raises ValueError (val_fraction outside (0, 1)), TokenFileError (too little text), OSError.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must lie between 0 and 1, not {val_fraction}")
    split = _plan(documents, val_fraction)
    with new_folder(Path(folder)) as new:
        dtype: Literal["uint16", "uint32"] = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            source=source,
            source_sha256=source_sha256,
            tokenizer_sha256=tokenizer.sha256,
            vocab_size=tokenizer.vocab_size,
            dtype=dtype,
            split_by=split.by,
            splits=_encode(new, documents(), tokenizer, split, np.dtype(dtype), progress),
        )
        tokenizer.save(new)
        write_atomic(new / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))
    return read_manifest(folder)


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a token folder, after checking that the folder is what it says.

    Checked: version, both arrays (present, whole, dtype, length), every id below vocab_size (in chunks; 12 GB/s from
    memory), the tokenizer's hash. Raises TokenFileError with the first thing that is wrong.
    """
    folder = Path(folder)
    manifest = _decode_manifest(folder / "manifest.json")
    for name, counts in manifest.splits.items():
        _check_array(folder / f"{name}.npy", manifest, counts)
    tokenizer_path = folder / "tokenizer.json"
    if not tokenizer_path.is_file():
        raise TokenFileError(f"{tokenizer_path} is missing; delete the folder and prepare it again")
    if (found := sha256_file(tokenizer_path)) != manifest.tokenizer_sha256:
        wanted = manifest.tokenizer_sha256
        raise TokenFileError(
            f"{tokenizer_path} isn't the tokenizer of these ids (sha256 {found[:12]}…, not {wanted[:12]}…)"
        )
    return manifest


def _plan(documents: Documents, val_fraction: float) -> _Split:
    """Lowest keys first until validation holds the share nearest to val_fraction.

    A key depends on the text alone: when others come or go, a document keeps its side (but for a few at the limit),
    and copies are never on both sides.
    """
    keys, sizes = array("Q"), array("Q")
    for text in documents():
        keys.append(_key(text))
        sizes.append(_size(text))
    total = sum(sizes)
    if total == 0:
        raise TokenFileError("there is no text to encode")
    distinct, position = np.unique(np.array(keys, np.uint64), return_inverse=True)
    shares = np.cumsum(np.bincount(position, weights=np.array(sizes, np.float64))) / total
    if len(distinct) > 1:
        last = int(np.abs(shares[:-1] - val_fraction).argmin())
        if shares[last] <= 2 * val_fraction:
            return _Split("documents", int(distinct[last]), val_fraction, total)
    return _Split("tails", 0, val_fraction, total)


def _key(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8])


def _size(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


def _cut(text: str, val_fraction: float) -> int:
    """Where the tail begins: after the last paragraph, line or word that ends shortly before its share of the text."""
    target = round(len(text) * (1 - val_fraction))
    reach = (len(text) - target) // 2
    for boundary in ("\n\n", "\n", " "):
        if (found := text.rfind(boundary, target - reach, target)) > 0:
            return found + len(boundary)
    return target


class _ArrayWriter:
    """A 1-D .npy file that grows: NumPy leaves room in the header for the length, which is known last."""

    def __init__(self, file: BinaryIO, dtype: np.dtype[np.unsignedinteger]) -> None:
        self.file, self.dtype = file, dtype
        self.documents = self.tokens = self.bytes = 0
        self._write_header()

    def add(self, text: str, ids: np.ndarray, end_of_text_id: int) -> None:
        np.append(ids, end_of_text_id).astype(self.dtype).tofile(self.file)
        self.documents += 1
        self.tokens += len(ids) + 1
        self.bytes += _size(text)

    def finish(self) -> SplitCounts:
        self.file.seek(0)
        self._write_header()
        return SplitCounts(self.documents, self.tokens, self.bytes)

    def _write_header(self) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.tokens,)}
        np.lib.format.write_array_header_1_0(self.file, header)


def _encode(
    folder: Path,
    documents: Iterator[str],
    tokenizer: "Tokenizer",
    split: _Split,
    dtype: np.dtype[np.unsignedinteger],
    progress: Callable[[int, int], None] | None,
) -> dict[str, SplitCounts]:
    with (folder / "train.npy").open("wb") as train_file, (folder / "val.npy").open("wb") as val_file:
        writers = {"train": _ArrayWriter(train_file, dtype), "val": _ArrayWriter(val_file, dtype)}
        done = 0
        for text in documents:
            for writer, part in zip(writers.values(), split.parts(text), strict=True):
                if part:
                    writer.add(part, tokenizer.encode(part), tokenizer.end_of_text_id)
            done += _size(text)
            if progress:
                progress(done, split.total_bytes)
        counts = {name: writer.finish() for name, writer in writers.items()}
    for name, count in counts.items():
        if count.documents == 0:
            raise TokenFileError(f"the text is too short to split: nothing is left for {name} ({done} bytes in all)")
    return counts


def _decode_manifest(path: Path) -> Manifest:
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise TokenFileError(f"{path} is missing: {path.parent} isn't a folder of token files") from None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TokenFileError(f"{path} can't be read: {error}") from None
    if manifest.format_version != FORMAT_VERSION:
        raise TokenFileError(
            f"{path} has format version {manifest.format_version}, this program reads {FORMAT_VERSION}"
        )
    if sorted(manifest.splits) != ["train", "val"]:
        raise TokenFileError(f"{path} must describe train and val, not {', '.join(manifest.splits) or 'nothing'}")
    return manifest


def _check_array(path: Path, manifest: Manifest, counts: SplitCounts) -> None:
    try:
        ids = open_array(path)
    except ArrayFileError as error:
        raise TokenFileError(f"{error}; delete the folder and prepare it again") from None
    if ids.dtype != np.dtype(manifest.dtype) or ids.shape != (counts.tokens,):
        found, wanted = f"{ids.dtype} of shape {ids.shape}", f"{manifest.dtype} of shape ({counts.tokens},)"
        raise TokenFileError(f"{path} holds {found}, its manifest says {wanted}")
    for start in range(0, len(ids), _IDS_PER_CHECK):
        largest = int(ids[start : start + _IDS_PER_CHECK].max())
        if largest >= manifest.vocab_size:
            raise TokenFileError(f"{path} holds id {largest}, but the vocabulary has {manifest.vocab_size} tokens")
