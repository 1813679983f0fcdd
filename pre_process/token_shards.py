"""Token ids on disk: shards train-00000.npy, …, val-00000.npy, …, memory-mapped, and a manifest of what they are."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from pre_process.arrays import ArrayFileError, open_array
from pre_process.bin_shards import bin_paths, open_bin
from pre_process.files import sha256_file

FORMAT_VERSION = 2
SPLITS = ("train", "val")
_BYTES_PER_CHECK = 1 << 24


class TokenFileError(ValueError):
    """Token files that can't be written or used; the message is one line."""


class Shard(msgspec.Struct, frozen=True):
    """What one .npy file holds: documents (or parts), ids with end-of-text, UTF-8 bytes of the text; its SHA-256."""

    documents: int
    tokens: int
    bytes: int
    sha256: str


class Split(msgspec.Struct, frozen=True):
    """The shards of 'train' or of 'val', in order."""

    shards: list[Shard]

    documents = property(lambda self: sum(shard.documents for shard in self.shards))
    tokens = property(lambda self: sum(shard.tokens for shard in self.shards))
    bytes = property(lambda self: sum(shard.bytes for shard in self.shards))


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """manifest.json of a token folder."""

    format_version: int
    source: str
    source_sha256: str
    tokenizer_sha256: str
    vocab_size: int
    dtype: Literal["uint16", "uint32"]
    split_by: Literal["documents", "tails"]
    splits: dict[str, Split]


class Tokens:
    """The ids of several shards, read like one array (n,): by length, slice, or an array of places.

    Nothing is loaded before it is asked for. A slice and `tokens[places]` are arrays in memory.
    """

    def __init__(self, shards: Sequence[np.ndarray]) -> None:
        self._shards = shards
        self._starts = np.cumsum([0, *map(len, shards)])
        self.dtype = shards[0].dtype

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        places = np.arange(*index.indices(len(self))) if isinstance(index, slice) else index
        numbers = np.searchsorted(self._starts, places, side="right") - 1
        found = np.empty(places.shape, self.dtype)
        for number in np.unique(numbers):
            here = numbers == number
            found[here] = self._shards[number][places[here] - self._starts[number]]
        return found


class ShardPair:
    """A training and a validation shard that grow: NumPy leaves room in a header for the length, which is known last.

    documents  that have been added, to be kept by the caller: one may give a part to each side
    """

    def __init__(self, folder: Path, numbers: Mapping[str, int], dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.paths = {name: shard_path(folder, name, numbers[name]) for name in SPLITS}
        self.files = {name: path.open("wb") for name, path in self.paths.items()}
        self.tokens, self.parts, self.sizes = (dict.fromkeys(SPLITS, 0) for _ in range(3))
        self.documents = 0
        for name in SPLITS:
            self._write_header(name)

    def add(self, name: str, ids: np.ndarray, parts: int, size: int) -> None:
        """Append ids (n,), which are so many parts of documents and so many bytes of text."""
        self.files[name].write(ids.astype(self.dtype, copy=False).data)  # tofile would hide why a disk refuses
        self.tokens[name] += len(ids)
        self.parts[name] += parts
        self.sizes[name] += size

    @property
    def bytes(self) -> int:
        """Of text, on both sides."""
        return sum(self.sizes.values())

    def close(self) -> dict[str, Shard]:
        """Write the lengths; what each file holds. A shard without ids leaves no file."""
        closed = {}
        for name, file in self.files.items():
            file.seek(0)
            self._write_header(name)
            file.close()
            if self.tokens[name]:
                sha256 = sha256_file(self.paths[name])
                closed[name] = Shard(self.parts[name], self.tokens[name], self.sizes[name], sha256)
            else:
                self.paths[name].unlink()
        return closed

    def discard(self) -> None:
        """Delete the files, if they were not closed."""
        for name, file in self.files.items():
            if not file.closed:
                file.close()
                self.paths[name].unlink()

    def _write_header(self, name: str) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.tokens[name],)}
        np.lib.format.write_array_header_1_0(self.files[name], header)


def shard_path(folder: Path, split: str, number: int) -> Path:
    """Where a shard lies."""
    return folder / f"{split}-{number:05}.npy"


def holds_tokens(folder: str | Path) -> bool:
    """True for a folder of token files: with a manifest, or of .bin shards."""
    return (Path(folder) / "manifest.json").is_file() or bool(bin_paths(folder, "train"))


def open_tokens(folder: str | Path, split: str) -> Tokens | np.ndarray:
    """The ids of 'train' or 'val', (n,) uint16 or uint32, on disk until they are read. Raises ArrayFileError."""
    paths = sorted(Path(folder).glob(f"{split}-*.npy")) or bin_paths(folder, split)
    paths = paths or [shard_path(Path(folder), split, 0)]
    shards = [open_bin(path) if path.suffix == ".bin" else open_array(path) for path in paths]
    return shards[0] if len(shards) == 1 else Tokens(shards)


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a token folder, after checking that the folder is what it says.

    Checked: version, every shard (present, whole, dtype, length, SHA-256, every id below vocab_size), the tokenizer's
    hash. All ids are read once, at about the speed of the disk. A folder of .bin shards has no manifest: it is made
    from what they hold. Raises TokenFileError with the first thing wrong.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").is_file() and bin_paths(folder, "train"):
        return describe_bin_folder(folder)
    manifest = _decode_manifest(folder / "manifest.json")
    for name, split in manifest.splits.items():
        for number, shard in enumerate(split.shards):
            _check_shard(shard_path(folder, name, number), manifest, shard)
    tokenizer_path = folder / "tokenizer.json"
    if not tokenizer_path.is_file():
        raise TokenFileError(f"{tokenizer_path} is missing; delete the folder and prepare it again")
    if (found := sha256_file(tokenizer_path)) != manifest.tokenizer_sha256:
        wanted = manifest.tokenizer_sha256
        raise TokenFileError(
            f"{tokenizer_path} isn't the tokenizer of these ids (sha256 {found[:12]}…, not {wanted[:12]}…)"
        )
    return manifest


def describe_bin_folder(folder: Path) -> Manifest:
    """A manifest of .bin shards, whose tokenizer.json must lie beside them. Raises TokenFileError, TokenizerError."""
    from pre_process.tokenizer import Tokenizer

    if not (folder / "tokenizer.json").is_file():
        raise TokenFileError(f"{folder} has .bin shards but no tokenizer.json: put the one that made their ids there")
    tokenizer = Tokenizer.load(folder)
    sizes = np.array([len(tokenizer.token_bytes(token_id)) for token_id in range(tokenizer.vocab_size)])
    sizes[tokenizer.end_of_text_id] = 0
    splits = {}
    for name in SPLITS:
        paths = bin_paths(folder, name)
        if not paths:
            raise TokenFileError(f"{folder} has no .bin shard with '{name}' in its name")
        splits[name] = Split([_describe_bin(path, sizes, tokenizer.end_of_text_id) for path in paths])
    content = [shard.sha256 for split in splits.values() for shard in split.shards]
    return Manifest(
        format_version=FORMAT_VERSION,
        source=str(folder),
        source_sha256=hashlib.sha256(msgspec.json.encode(content)).hexdigest(),
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        dtype="uint16",
        split_by="documents",
        splits=splits,
    )


def _describe_bin(path: Path, sizes: np.ndarray, end_of_text: int) -> Shard:
    try:
        ids = open_bin(path)
    except ArrayFileError as error:
        raise TokenFileError(str(error)) from None
    counts = np.zeros(1 << 16, np.int64)
    for start in range(0, len(ids), _BYTES_PER_CHECK):
        counts += np.bincount(ids[start : start + _BYTES_PER_CHECK], minlength=len(counts))
    if (largest := int(counts.nonzero()[0].max(initial=0))) >= len(sizes):
        raise TokenFileError(f"{path} holds id {largest}, but the vocabulary has {len(sizes)} tokens")
    n_bytes = int(counts[: len(sizes)] @ sizes)
    return Shard(int(counts[end_of_text]), len(ids), n_bytes, sha256_file(path))


def _decode_manifest(path: Path) -> Manifest:
    try:
        content = path.read_bytes()
        version = msgspec.json.decode(content, type=_Version).format_version
        if version != FORMAT_VERSION:
            raise TokenFileError(f"{path} has format version {version}, this program reads {FORMAT_VERSION}")
        manifest = msgspec.json.decode(content, type=Manifest)
    except FileNotFoundError:
        raise TokenFileError(f"{path} is missing: {path.parent} isn't a folder of token files") from None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TokenFileError(f"{path} can't be read: {error}") from None
    if sorted(manifest.splits) != sorted(SPLITS) or not all(split.shards for split in manifest.splits.values()):
        found = ", ".join(manifest.splits) or "nothing"
        raise TokenFileError(f"{path} must describe shards of train and val, not {found}")
    return manifest


class _Version(msgspec.Struct):
    format_version: int


def _check_shard(path: Path, manifest: Manifest, shard: Shard) -> None:
    try:
        ids = open_array(path)
    except ArrayFileError as error:
        raise TokenFileError(f"{error}; delete the folder and prepare it again") from None
    if ids.dtype != np.dtype(manifest.dtype) or ids.shape != (shard.tokens,):
        found, wanted = f"{ids.dtype} of shape {ids.shape}", f"{manifest.dtype} of shape ({shard.tokens},)"
        raise TokenFileError(f"{path} holds {found}, its manifest says {wanted}")
    step, sha256 = _BYTES_PER_CHECK // ids.itemsize, hashlib.sha256()
    with path.open("rb") as file:
        sha256.update(file.read(path.stat().st_size - ids.nbytes))  # the header
    for start in range(0, len(ids), step):
        piece = ids[start : start + step]
        sha256.update(piece.data)
        if (largest := int(piece.max())) >= manifest.vocab_size:
            raise TokenFileError(f"{path} holds id {largest}, but the vocabulary has {manifest.vocab_size} tokens")
    if sha256.hexdigest() != shard.sha256:
        raise TokenFileError(f"{path} was changed since it was written (its sha256 is another one); prepare it again")
