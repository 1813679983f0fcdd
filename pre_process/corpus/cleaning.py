"""What may be changed in a text before it is used: Unicode's composed form, control characters, Gutenberg's wrapping.

Nothing here runs unasked. All of it is idempotent: cleaning what is clean changes nothing.
"""

import re
import unicodedata

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # C0 but tab, line feed and return; DEL; C1

# Project Gutenberg's marks, in the spellings of its decades: "*** START OF THE PROJECT GUTENBERG EBOOK EMMA ***",
# "***START OF THIS PROJECT GUTENBERG EBOOK…", "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*".
_START = re.compile(r"^\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG.*$|^\*END\*? ?THE SMALL PRINT.*$", re.I | re.M)
_END = re.compile(
    r"^\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG.*$|^End of (?:The |the )?Project Gutenberg.*$", re.I | re.M
)
_SEARCHED = 0.5  # of the text: a start mark stands in the first half, an end mark in the second
_PRODUCERS = re.compile(r"\A\s*(?:Produced|Transcribed|E-text prepared|This e(?:book|text) was produced) [^\n]*", re.I)
_CONTINUED = re.compile(r"\A(?:\n[^\n]+)*")


def clean(text: str) -> str:
    """NFC, and no control characters but tab, line feed and carriage return (code points 0–31 and 127–159)."""
    return "\n".join(map(_composed, _CONTROL.sub("", text).split("\n")))


def _composed(line: str) -> str:
    """NFC of a line: nothing composes across a line's end, and most lines need no looking at."""
    return line if line.isascii() else unicodedata.normalize("NFC", line)


def strip_gutenberg(text: str) -> str:
    """A Project Gutenberg book without its header, licence and the line of its producers; other texts as they are.

    A mark counts only where it belongs: a start in the first half, an end in the second. With several start marks (old
    files have a "small print" and a start line) the book begins after the last of them.
    """
    middle = int(len(text) * _SEARCHED)
    starts = [match.end() for match in _START.finditer(text) if match.start() <= middle]
    ends = [match.start() for match in _END.finditer(text) if match.start() >= middle]
    if not starts and not ends:
        return text
    begin, end = max(starts, default=0), min(ends, default=len(text))
    return _without_producers(text[begin:end]).strip("\n") + "\n"


def _without_producers(text: str) -> str:
    """Without the paragraph "Produced by …" that stands before the title."""
    if match := _PRODUCERS.match(text):
        rest = text[match.end() :]
        continued = _CONTINUED.match(rest)
        return rest[continued.end() :] if continued else rest
    return text
