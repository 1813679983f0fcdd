"""Documents from files: one text or Markdown file, a folder of them, or jsonl with a "text" field."""

import codecs
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pre_process.corpus.errors import CorpusError

TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown")


class _Record(msgspec.Struct):
    """One line of a jsonl file; other fields are skipped."""

    text: str


def find_files(path: Path) -> list[Path]:
    """The files of a source in reading order: itself, or what lies under the folder, hidden ones left out."""
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if _is_text(file) and not _is_hidden(file.relative_to(path))]
        if not found:
            raise CorpusError(f"{path}: no {', '.join(TEXT_SUFFIXES)} file in this folder")
        return found
    if not path.exists():
        raise CorpusError(f"{path}: no such file or folder")
    if not _is_text(path) and path.suffix.lower() != ".jsonl":
        raise CorpusError(f"{path}: can't read this kind of file; give {', '.join(TEXT_SUFFIXES)}, .jsonl or a folder")
    return [path]


def read_documents(files: list[Path], source: Path) -> Iterator[str]:
    """One document a text file, one a jsonl line; blank ones are left out, and a source of only those is an error."""
    found = False
    for file in files:
        for text in _records(file) if file.suffix.lower() == ".jsonl" else [read_text(file)]:
            if text.strip():
                found = True
                yield text
    if not found:
        raise CorpusError(f"{source}: there is no text in it")


def read_text(file: Path) -> str:
    """A whole UTF-8 file, without a byte order mark and with "\\n" line ends."""
    content = _read(file)
    text = content.removeprefix(codecs.BOM_UTF8)
    skipped = len(content) - len(text)
    if (position := text.find(b"\0")) >= 0:
        raise CorpusError(f"{file}: not a text file (NUL byte at offset {position + skipped})")
    try:
        return text.decode().replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{file}: not UTF-8 text (byte {text[error.start]:#04x} at offset {error.start + skipped})"
        ) from None


def _records(file: Path) -> Iterator[str]:
    decoder = msgspec.json.Decoder(_Record)
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            content = line.removeprefix(codecs.BOM_UTF8).strip()
            if not content:
                continue
            try:
                yield decoder.decode(content).text
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise CorpusError(f'{file}, line {number}: not an object with a "text" string ({error})') from None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CorpusError(f"{file}: can't be read ({error.strerror})") from error


def _is_text(path: Path) -> bool:
    return path.suffix.lower() in TEXT_SUFFIXES and path.is_file()


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
