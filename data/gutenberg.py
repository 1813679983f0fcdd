"""A folder of Project Gutenberg books (.txt, .md): licence and header taken off, one document a book, as jsonl.

python -m data.gutenberg --from BOOKS/ --out books.jsonl
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.command import Dataset, Document, run
from pre_process.corpus.cleaning import clean, strip_gutenberg
from pre_process.corpus.sources import find_files, read_text


def books(paths: Sequence[Path], split: str = "") -> Iterator[Document]:
    """One document a file, in the order of the names; a book of which nothing is left is an error."""
    for path in paths:
        for file in find_files(path):
            text = clean(strip_gutenberg(read_text(file)))
            if not text.strip():
                raise ValueError(f"{file}: nothing is left of it without its header and licence")
            yield Document(text, title=file.stem)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the books; returns the exit code."""
    return run(Dataset(name="gutenberg", read=books), argv, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main())
