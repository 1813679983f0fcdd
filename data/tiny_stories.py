"""TinyStories, the GPT-4 part: short stories in the words of a four-year-old. Documents as jsonl.

python -m data.tiny_stories --out stories.jsonl [--split train|validation] [--limit 10000]
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.command import Dataset, Document, read_lines, run
from data.hub import HubFile

REPO, REVISION = "roneneldan/TinyStories", "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64"
END = "<|endoftext|>"
FILES = {
    "train": (
        HubFile(
            REPO,
            "TinyStoriesV2-GPT4-train.txt",
            REVISION,
            "6418d412de72888f52b5142c761ac21a582f7d1166f0bfbdb5f03ccfdec90443",
        ),
    ),
    "validation": (
        HubFile(
            REPO,
            "TinyStoriesV2-GPT4-valid.txt",
            REVISION,
            "6874bae9a4c1a4e7edcf0e53b86c17817e9cf881fc75ff2368da457b80c0585d",
        ),
    ),
}


def stories(paths: Sequence[Path], split: str = "") -> Iterator[Document]:
    """What stands between two <|endoftext|>; files are read line by line."""
    for path in paths:
        lines: list[str] = []
        for line in read_lines(path):
            *ends, rest = line.split(END)
            for end in ends:
                yield from _story([*lines, end])
                lines = []
            lines.append(rest)
        yield from _story(lines)


def _story(lines: list[str]) -> Iterator[Document]:
    if text := "".join(lines).strip():
        yield Document(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the stories; returns the exit code."""
    return run(Dataset(name="tiny_stories", read=stories, files=FILES), argv, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main())
