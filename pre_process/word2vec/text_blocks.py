"""Files and documents → blocks of UTF-8 of about a megabyte, cut where a sentence may end."""

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path

from pre_process.corpus import CorpusError
from pre_process.corpus.sources import find_files, read_documents
from pre_process.tokenizer.byte_level import utf8

SIZE = 1 << 20
_BORDERS = (b"\n\n", b"\n", b" ")  # where to cut, the first of these that there is


def text_blocks(texts: Iterable[Path | str]) -> Iterator[bytes]:
    """A Path is a file or folder that pre_process.corpus knows, a str a document. Each block ends a document or follows
    a line end, if it has one.

    Text files are not held in memory. Raises CorpusError for what is no UTF-8 text, ValueError for one str alone.
    """
    if isinstance(texts, str | Path):
        raise ValueError("texts is one text: give a list of documents (str) or files (Path)")
    gathered: list[bytes] = []
    size = 0
    for text in texts:
        for part in _parts(text):
            gathered.append(part)
            size += len(part)
            if size >= SIZE:
                yield b"\n\n".join(gathered)
                gathered, size = [], 0
    if gathered:
        yield b"\n\n".join(gathered)


def size_of(texts: Iterable[Path | str]) -> int:
    """Bytes of all texts; 0 if that is unknown because `texts` can be read only once."""
    if iter(texts) is texts:
        return 0
    return sum(_size(text) for text in texts)


def _size(text: Path | str) -> int:
    return len(utf8(text)) if isinstance(text, str) else sum(file.stat().st_size for file in find_files(text))


def _parts(text: Path | str) -> Iterator[bytes]:
    if isinstance(text, str):
        yield utf8(text)
        return
    for file in find_files(text):
        if file.suffix.lower() == ".jsonl":
            yield from (utf8(document) for document in read_documents([file], file))
        else:
            yield from _read_file(file)


def _read_file(file: Path) -> Iterator[bytes]:
    """The file in blocks. Raises CorpusError."""
    offset, rest = 0, b""
    try:
        with file.open("rb") as opened:
            while content := opened.read(SIZE):
                block = rest + content
                cut = len(block) if len(content) < SIZE else _border(block)
                yield _checked(file, block[:cut], offset)
                offset, rest = offset + cut, block[cut:]
    except OSError as error:
        raise CorpusError(f"{file}: can't be read ({error.strerror})") from error
    if rest:
        yield _checked(file, rest, offset)


def _border(block: bytes) -> int:
    """Where to cut: behind the last blank line, line end or space; where a character begins if there is none."""
    for border in _BORDERS:
        if (found := block.rfind(border)) >= 0:
            return found + len(border)
    cut = len(block)
    while cut > len(block) - 4 and block[cut - 1] & 0xC0 == 0x80:
        cut -= 1
    return cut - 1 if cut > 1 else len(block)


def _checked(file: Path, block: bytes, offset: int) -> bytes:
    if (position := block.find(b"\0")) >= 0:
        raise CorpusError(f"{file}: not a text file (NUL byte at offset {offset + position})")
    try:
        block.decode()
    except UnicodeDecodeError as error:
        byte = block[error.start]
        raise CorpusError(f"{file}: not UTF-8 text (byte {byte:#04x} at offset {offset + error.start})") from None
    return block.removeprefix(codecs.BOM_UTF8) if offset == 0 else block
