"""FineWeb-Edu, the sample of ten billion tokens: web pages that a classifier found instructive. Documents as jsonl.

    python -m data.fineweb_edu --out pages.jsonl [--split first|all] [--limit 100000]

A file is about 2 GB of Parquet and holds 690,000 pages; "first" is one of them, "all" are fourteen.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.command import Dataset, Document, run
from data.hub import HubFile

REPO, REVISION = "HuggingFaceFW/fineweb-edu", "87f09149ef4734204d70ed1d046ddc9ca3f2b8f9"
ALL = tuple(HubFile(REPO, f"sample/10BT/{number:03}_00000.parquet", REVISION) for number in range(14))
FILES = {"first": ALL[:1], "all": ALL}
ROWS = 1024  # that are in memory at a time


def pages(paths: Sequence[Path], split: str = "") -> Iterator[Document]:
    """The column "text" of Parquet files. Raises ValueError for a file that is none, or has no such column."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise ValueError("Parquet files need pyarrow: pip install 'nanograd[hub]'") from None
    for path in paths:
        try:
            with parquet.ParquetFile(path) as file:
                for rows in file.iter_batches(batch_size=ROWS, columns=["text"]):
                    yield from (Document(text) for text in rows.column("text").to_pylist() if text and text.strip())
        except (arrow.ArrowException, KeyError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f'{path}: no Parquet file with a column "text" ({reason})') from None


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages; returns the exit code."""
    return run(Dataset(name="fineweb_edu", read=pages, files=FILES), argv, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main())
