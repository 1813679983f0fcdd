"""Training text as a stream of UTF-8: documents from memory or from files, long ones in parts.

A part ends only where a piece ends whatever stands around it, so the parts have the pieces of the whole, and a document
of any length streams through memory part by part. Such a place is

    before a space that follows a character that is not white:         "the|_end"
    behind a newline between two characters that are not white:        "the⏎|end"
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pre_process.tokenizer.byte_level import utf8
from pre_process.tokenizer.vocabulary import TokenizerError

PART = 1 << 20  # bytes; the next place to cut from here on is taken

_WHITE = rb"[\t-\r ]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80"
_NOT_WHITE_BEFORE = b"".join(rb"(?<!" + kind + rb")" for kind in _WHITE.split(b"|"))
_CUT = re.compile(_NOT_WHITE_BEFORE + rb"(?:(?= )|\n(?=...)(?!" + _WHITE + rb"))", re.DOTALL)
_LOOK_BACK = 4  # bytes: a character and a newline


def from_texts(texts: Iterable[str], normalize: Callable[[str], str]) -> Iterator[bytes]:
    """The documents `texts`, normalized. Raises TokenizerError for what is not an iterable of strings."""
    if isinstance(texts, str):
        raise TokenizerError("texts is one string: pass an iterable of strings, [text]")
    for text in texts:
        if not isinstance(text, str):
            raise TokenizerError(f"texts holds a {type(text).__name__}: a tokenizer is trained on strings")
        yield from parts(utf8(normalize(text)))


def from_files(paths: Iterable[str | Path], normalize: Callable[[str], str]) -> Iterator[bytes]:
    """The files `paths`, a document each, normalized. Raises OSError, or TokenizerError if one is not UTF-8."""
    if isinstance(paths, str | Path):
        raise TokenizerError("paths is one path: pass a list, [path]")
    for path in map(Path, paths):
        for text, _ in text_parts(path):
            yield utf8(normalize(text))


def text_parts(path: Path) -> Iterator[tuple[str, int]]:
    """(part, bytes of the file up to its end): the text of a file. Raises OSError, TokenizerError if it is not UTF-8.

    The parts can be encoded one by one: together they have the pieces, and so the ids, of the whole text.
    """
    end = 0
    for part in file_parts(path):
        try:
            text = part.decode()
        except UnicodeDecodeError as error:
            at = end + error.start
            raise TokenizerError(f"{path}: not UTF-8 text (byte {part[error.start]:#04x} at offset {at})") from None
        end += len(part)
        yield text, end


def parts(document: bytes) -> Iterator[bytes]:
    """A document in parts of about PART bytes."""
    start = 0
    while len(document) - start > 2 * PART and (cut := _CUT.search(document, start + PART)):
        yield document[start : cut.end()]
        start = cut.end()
    yield document[start:] if start else document


def file_parts(path: Path) -> Iterator[bytes]:
    """The bytes of a file in parts; more than one is in memory only where there is no place to cut."""
    rest, searched = bytearray(), 0
    with path.open("rb") as file:
        while block := file.read(PART):
            rest += block
            if cut := _CUT.search(rest, max(searched, PART) - _LOOK_BACK):
                yield bytes(rest[: cut.end()])
                del rest[: cut.end()]
            searched = len(rest)
    yield bytes(rest)
