"""Floor 5. The documents of a text or of a token folder, one after the other: what evaluation reads."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from nanograd.data.layouts import DataError
from nanograd.data.packing import find_documents
from pre_process import corpus
from pre_process.fitting import encode_rows
from pre_process.token_reader import open_reader
from pre_process.token_shards import holds_tokens, read_manifest
from pre_process.token_splits import SplitPlan, plan_split, read_ahead, utf8
from pre_process.tokenizer import Tokenizer

Split = Literal["val", "train", "all"]
SHOWN = 60  # characters of a document's beginning


class Document(NamedTuple):
    """One document (or the part of it that was asked for)."""

    ids: np.ndarray  # (n,) without end-of-text
    n_bytes: int  # UTF-8 of its text
    beginning: str


class Text(NamedTuple):
    """What is to be read: documents come one by one, never all in memory.

    n_bytes  UTF-8 of all documents together as they were before a tokenizer normalised them
    sha256   of all that decides the documents of all splits
    """

    source: str
    sha256: str
    split: Split
    n_bytes: int
    documents: Iterator[Document]


def open_documents(data: str | None, tokenizer: Tokenizer, *, split: Split | None, val_fraction: float) -> Text:
    """The documents of a text (None: the Wikipedia excerpt), or of a token folder that this tokenizer made.

    split  None: all of a text, the validation part of a token folder. Of a text 'val' is the share `val_fraction` that
    nanograd.train holds out. Raises CorpusError, TokenFileError, and DataError for another tokenizer's ids.
    """
    if data is not None and holds_tokens(data):
        return _of_token_folder(Path(data), tokenizer, split or "val")
    return _of_text(data, tokenizer, split or "all", val_fraction)


def _of_text(data: str | None, tokenizer: Tokenizer, split: Split, val_fraction: float) -> Text:
    plan = plan_split(lambda: corpus.documents(data), val_fraction)[0] if split != "all" else None
    n_bytes = sum(len(utf8(part)) for part in _parts(data, split, plan))
    if not n_bytes:
        raise DataError(f"{corpus.describe(data)}: --split {split} leaves no text")
    documents = _encoded(_parts(data, split, plan), tokenizer)
    return Text(corpus.describe(data), corpus.fingerprint(data), split, n_bytes, documents)


def _parts(data: str | None, split: Split, plan: SplitPlan | None) -> Iterator[str]:
    """What belongs to the split, of each document that has such a part."""
    for text in corpus.documents(data):
        part = text if plan is None else plan.parts(text)[split == "val"]
        if part:
            yield part


def _encoded(parts: Iterator[str], tokenizer: Tokenizer) -> Iterator[Document]:
    for batch in read_ahead(parts):
        for text, ids in zip(batch, encode_rows(tokenizer, batch), strict=True):
            yield Document(ids, len(utf8(text)), " ".join(text[: 4 * SHOWN].split())[:SHOWN])


def _of_token_folder(folder: Path, tokenizer: Tokenizer, split: Split) -> Text:
    manifest = read_manifest(folder)
    if manifest.tokenizer_sha256 != tokenizer.sha256:
        raise DataError(
            f"the ids in {folder} were made by another tokenizer than the model's: give the text itself, or encode it "
            "with `python -m pre_process tokens --tokenizer RUN`"
        )
    names = ["train", "val"] if split == "all" else [split]
    sha256 = hashlib.sha256(msgspec.json.encode(manifest)).hexdigest()
    n_bytes = sum(manifest.splits[name].bytes for name in names)
    documents = (document for name in names for document in _decoded(folder, name, tokenizer))
    return Text(manifest.source, sha256, split, n_bytes, documents)


def _decoded(folder: Path, split: str, tokenizer: Tokenizer) -> Iterator[Document]:
    """Documents of token files, whose bytes are those that their tokens stand for: what a normalizer left."""
    ids, end = open_reader(folder, split, vocab_size=tokenizer.vocab_size), tokenizer.end_of_text_id
    special = set(tokenizer.special_tokens.values())
    sizes = np.array([0 if i in special else len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)])
    pieces = find_documents(ids, end)
    for start, length in zip(pieces.starts.tolist(), pieces.lengths.tolist(), strict=True):
        document = ids[start : start + length + 1]
        document = document[document != end]
        if len(document):
            beginning = " ".join(tokenizer.decode(document[:SHOWN]).split())[:SHOWN]
            yield Document(document, int(sizes[document].sum()), beginning)
