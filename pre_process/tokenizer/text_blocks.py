"""Text files of any size as strings of some megabytes, cut where no token goes across.

Such a place is between a letter or digit and the space or line break behind it. All the patterns cut there too, and
none of them looks back, or ahead from a letter: so the pieces of the blocks are the pieces of the file. A file without
such a place is one block.
"""

import codecs
from collections.abc import Iterator
from pathlib import Path

from pre_process.tokenizer.vocabulary import TokenizerError

BLOCK_BYTES = 1 << 22


def read_blocks(path: Path, *, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[str, int]]:
    """(block, bytes of the file read so far). Joined, the blocks are the file's text.

    Raises TokenizerError for a file that is not UTF-8, with the offset of the first bad byte; OSError.
    """
    waiting: list[str] = []  # what has no place to be cut yet
    done = 0
    for text, done in _decoded(path, block_bytes):
        cut = _last_cut(text)
        if cut:
            yield "".join((*waiting, text[:cut])), done
            waiting = []
        waiting.append(text[cut:])
    if any(waiting):
        yield "".join(waiting), done


def _decoded(path: Path, block_bytes: int) -> Iterator[tuple[str, int]]:
    decoder, done = codecs.getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as file:
        while True:
            block = file.read(block_bytes)
            unfinished = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                place = done - unfinished + error.start
                byte = error.object[error.start]
                raise TokenizerError(f"{path}: not UTF-8 text (byte {byte:#04x} at offset {place})") from None
            done += len(block)
            if text:
                yield text, done
            if not block:
                return


def _last_cut(text: str) -> int:
    """The last place in `text` where it may be cut, 0 if there is none."""
    end = len(text)
    while (found := max(text.rfind("\n", 0, end), text.rfind(" ", 0, end))) > 0:
        if text[found - 1].isalnum():
            return found
        end = found
    return 0
