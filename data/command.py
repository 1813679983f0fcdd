"""The command of all data sets: documents from the Hub or from a local copy → jsonl, in one step or not at all."""

import argparse
import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from data.hub import HubFile, fetch
from pre_process.files import open_atomic
from pre_process.terminal import one_line

EVERY = 1000  # documents between two looks at the clock of the progress line


class Document(msgspec.Struct, omit_defaults=True):
    """One line of the jsonl file."""

    text: str
    title: str = ""


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """What a data set is to this command.

    read   paths of its files, and the split that is wanted ("" where there is none) → documents, one by one
    files  split → what to download; empty where there is nothing to download
    """

    name: str
    read: Callable[[Sequence[Path], str], Iterator[Document]]
    files: Mapping[str, tuple[HubFile, ...]] = {}
    notice: str = ""  # printed before anything happens


def run(dataset: Dataset, argv: Sequence[str] | None, *, doc: str | None) -> int:
    """Read, write, say how much it was; returns the exit code: 0, 2 for what the user can mend, 130 for Ctrl-C."""
    options = _parse(dataset, argv, doc)
    if dataset.notice:
        print(dataset.notice, file=sys.stderr)
    try:
        documents = dataset.read(_paths(dataset, options), options.split)
        counts = write_documents(options.out, islice(documents, options.limit), dataset.name)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; {options.out} was not written", file=sys.stderr)
        return 130
    print(f"{dataset.name} → {options.out}")
    for name, value in counts.items():
        print(f"{name:11} {value}")
    return 0


def _parse(dataset: Dataset, argv: Sequence[str] | None, doc: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m data.{dataset.name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.jsonl")
    where = parser.add_mutually_exclusive_group(required=not dataset.files)
    where.add_argument("--from", dest="local", nargs="+", type=Path, metavar="PATH", help="local copies; no download")
    if dataset.files:
        splits = list(dataset.files)
        parser.add_argument("--split", choices=splits, default=splits[0], help=f"default: {splits[0]}")
        where.add_argument("--offline", action="store_true", help="use an earlier download, open no connection")
    else:
        parser.set_defaults(split="")
    parser.add_argument("--limit", type=_count, metavar="N", help="only the first N documents")
    return parser.parse_args(argv)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _paths(dataset: Dataset, options: argparse.Namespace) -> list[Path]:
    if not options.local:
        return [fetch(file, offline=options.offline) for file in dataset.files[options.split]]
    for path in options.local:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
    return list(options.local)


def write_documents(
    out: Path, documents: Iterator[Document], name: str, *, sha256: str | None = None
) -> dict[str, str]:
    """Write one document a line and return what was counted. Memory holds one of them.

    Raises ValueError, and leaves `out` as it was, if there is none or the lines don't have the `sha256` wanted.
    """
    n, words, characters, written = 0, 0, 0, hashlib.sha256()
    with open_atomic(out) as file, _progress(name) as advance:
        for document in documents:
            line = msgspec.json.encode(document) + b"\n"
            file.write(line)
            written.update(line)
            n, words, characters = n + 1, words + len(document.text.split()), characters + len(document.text)
            if n % EVERY == 0:
                advance(n)
        if n == 0:
            raise ValueError(f"{name}: there is no document in it")
        if sha256 is not None and written.hexdigest() != sha256:
            raise ValueError(f"{name}: the result has sha256 {written.hexdigest()}, not {sha256}")
    counts = {"documents": n, "words": words, "characters": characters}
    return {key: f"{value:,}" for key, value in counts.items()} | {"sha256": f"{written.hexdigest()} (of this file)"}


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Callable[[int], None]]:
    """A line on the terminal with the number of documents; nothing where standard error is no terminal."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns, console = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()), Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(f"{name}: reading")
        yield lambda n: shown.update(task, description=f"{name}: {n:,} documents")


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, one by one. Raises ValueError with the line's number where it isn't UTF-8."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield line.decode().replace("\r\n", "\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}, line {number}: not UTF-8 text (byte {line[error.start]:#04x})") from None
