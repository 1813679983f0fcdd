"""A generated textbook on selling, 450 kB: small enough for a first experiment. One document as jsonl.

python -m data.sales_textbook --out sales.jsonl
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.command import Dataset, Document, run
from data.hub import HubFile
from pre_process.corpus import documents

FILES = {
    "train": (HubFile("goendalf666/sales-textbook_for_convincing_and_selling", "sales_textbook.txt", "main"),),
}


def textbook(paths: Sequence[Path], split: str = "") -> Iterator[Document]:
    """The whole file is one document."""
    for path in paths:
        for text in documents(path):
            yield Document(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the document; returns the exit code."""
    return run(Dataset(name="sales_textbook", read=textbook, files=FILES), argv, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main())
