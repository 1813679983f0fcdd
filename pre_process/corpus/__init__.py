"""Reading text: the embedded Wikipedia excerpt, a file, a folder, jsonl → a stream of documents."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pre_process.corpus.errors import CorpusError
from pre_process.corpus.sources import find_files, read_documents
from pre_process.corpus.wikipedia import CLEANING_VERSION, articles, describe_dump, dump_path
from pre_process.files import sha256_file

__all__ = ["CLEANING_VERSION", "CorpusError", "describe", "documents", "fingerprint"]


def documents(source: str | Path | None) -> Iterator[str]:
    """The texts of a source one by one, never all in memory; None is the embedded Wikipedia excerpt.

    A .txt or .md file is one document, a folder has one in each such file (sorted, sub-folders included), a .jsonl
    file one in each line's "text" field. Raises CorpusError: at once for a source that isn't there or holds no
    readable kind of file, while reading for an empty or binary file or a broken line.
    """
    if source is None:
        return iter(articles())
    return read_documents(find_files(Path(source)), Path(source))


def fingerprint(source: str | Path | None) -> str:
    """SHA-256 (hexadecimal) of all that decides the documents: names below the source, bytes, cleaning version."""
    if source is None:
        return hashlib.sha256(f"{CLEANING_VERSION} {sha256_file(dump_path())}".encode()).hexdigest()
    root = Path(source)
    whole = hashlib.sha256()
    for file in find_files(root):
        whole.update(f"{file.relative_to(root).as_posix()}\0{sha256_file(file)}\n".encode())
    return whole.hexdigest()


def describe(source: str | Path | None) -> str:
    """A line that says what the source is."""
    return describe_dump() if source is None else str(source)
