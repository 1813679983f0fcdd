"""WikiText-2 and WikiText-103: the good and featured articles of English Wikipedia. Documents as jsonl.

    python -m data.wikitext --out articles.jsonl [--split 2-train|2-validation|2-test|103-train|…]
    python -m data.wikitext --from wiki.train.tokens --out articles.jsonl

The files hold words with spaces between them ("a @-@ b , c"); what the spaces and marks were made from is put back.
"""

import io
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data.command import Dataset, Document, read_lines, run
from data.hub import HubFile

TWO = HubFile(
    "ggml-org/ci",
    "wikitext-2-raw-v1.zip",
    "927b3642933080f1b0e811e2f916e14c292992f9",
    "ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11",
)
HUNDRED = HubFile(
    "mattdangerw/wikitext-103-raw",
    "wikitext-103-raw-v1.zip",
    "3555105b17ae31cc619a136fac72dbe2865c3738",
    "91c00ae287f0d699e18605c84afc9e45c192bc6b7797ff8837e5474655a33794",
)
MEMBERS = {"train": "wiki.train.raw", "validation": "wiki.valid.raw", "test": "wiki.test.raw"}
FILES = {f"{size}-{split}": (archive,) for size, archive in (("2", TWO), ("103", HUNDRED)) for split in MEMBERS}

_TITLE = re.compile(r"^ = ([^=].*) = \n$")
_HEADING = re.compile(r"^ ((?:= ){2,})(.*?)(?: =)+ $", re.M)
_REPAIRS = [  # in this order
    (re.compile(r" @([-,.])@ "), r"\1"),
    (re.compile(r" ([,.;:?!%)\]}])"), r"\1"),
    (re.compile(r"([(\[{$£€#]) "), r"\1"),
    (re.compile(r" ('(?:s|t|re|ve|m|ll|d)\b)"), r"\1"),
]


def articles(lines: Iterable[str]) -> Iterator[Document]:
    """An article goes from one heading of the first level (" = Title = ", behind a blank line) to the next."""
    title, body, blank = "", list[str](), True
    for line in lines:
        found = _TITLE.match(line) if blank else None
        if found:
            yield from _article(title, body)
            title, body = found[1], []
        else:
            body.append(line)
        blank = not line.strip()
    yield from _article(title, body)


def _article(title: str, body: list[str]) -> Iterator[Document]:
    text = detokenize("".join(body))
    if text:
        title = detokenize(title)
        yield Document(f"{title}\n\n{text}" if title else text, title=title)


def detokenize(text: str) -> str:
    """ " 1 @,@ 000 men ( all ) didn 't . " → "1,000 men (all) didn't."; headings lose their signs."""
    text = _HEADING.sub(r"\2", text)
    for pattern, repaired in _REPAIRS:
        text = pattern.sub(repaired, text)
    paragraphs = (_close_quotes(line.strip()) for line in text.split("\n"))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def _close_quotes(paragraph: str) -> str:
    """No spaces inside of quotation marks: they are pairs, unless there is an odd number of them."""
    parts = paragraph.split('"')
    if len(parts) % 2:
        parts[1::2] = [quoted.strip() for quoted in parts[1::2]]
    return '"'.join(parts)


def read(paths: Sequence[Path], split: str = "2-train") -> Iterator[Document]:
    """Archives of the original distribution, or the files that are in them."""
    for path in paths:
        member = MEMBERS[split.rpartition("-")[2]]
        yield from articles(_from_archive(path, member) if zipfile.is_zipfile(path) else read_lines(path))


def _from_archive(path: Path, member: str) -> Iterator[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.rpartition("/")[2] == member]
            if not names:
                raise ValueError(f"{path}: there is no {member} in this archive")
            with archive.open(names[0]) as file:
                yield from io.TextIOWrapper(file, encoding="utf-8", newline="\n")
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged archive ({error})") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Write the articles; returns the exit code."""
    return run(Dataset(name="wikitext", read=read, files=FILES), argv, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main())
