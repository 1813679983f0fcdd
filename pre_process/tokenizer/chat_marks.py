"""Invisible marks in the messages of a chat: what the assistant wrote, and what is no special token, keep their place.

Three characters that stand nowhere in template and messages are put into the messages, go through the template with
them, and are taken out of the text again.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pre_process.tokenizer.byte_level import utf8
from pre_process.tokenizer.vocabulary import TokenizerError

Message = Mapping[str, Any]


class ChatError(TokenizerError):
    """A template or a list of messages that cannot be used; the message is one line."""


class Marks(NamedTuple):
    """Three characters that stand nowhere in template and messages."""

    first: str  # before what the assistant wrote
    last: str  # behind it
    inside: str  # in the name of a special token that is to stay plain text

    def removed_from(self, text: str, *, but: str = "") -> str:
        """`text` without marks, except the one in `but`."""
        return text.translate({ord(mark): None for mark in self if mark != but})


def unused_marks(source: str, *values: Any) -> Marks:
    """Marks for a template and what goes into it."""
    texts = source + repr(values) + json.dumps(values, ensure_ascii=False, default=str)
    unused = (chr(number) for number in range(0x10FFFD, 0xF0000, -1) if chr(number) not in texts)
    return Marks(next(unused), next(unused), next(unused))


def assistant_marked(messages: Sequence[Message], marks: Marks) -> Iterator[list[Message]]:
    """The messages with marks around what the assistant wrote; then, for a template that trims, around its words."""
    for pattern in (r"([\s\S]+)", r"(\S[\s\S]*\S|\S)"):
        yield [_marked(message, pattern, marks) if message["role"] == "assistant" else message for message in messages]


def _marked(message: Message, pattern: str, marks: Marks) -> Message:
    content = message.get("content")
    if not isinstance(content, str):
        return message
    return {**message, "content": re.sub(pattern, rf"{marks.first}\1{marks.last}", content, count=1)}


def assistant_spans(marked: str, marks: Marks) -> list[tuple[int, int]]:
    """(start, end) of what the assistant wrote, in bytes of the text. Raises ChatError if the marks are not pairs."""
    spans, place, start = [], 0, -1
    for part in re.split(f"([{marks.first}{marks.last}])", marked.replace(marks.inside, "")):
        if part == marks.first and start < 0:
            start = place
        elif part == marks.last and start >= 0:
            spans.append((start, place))
            start = -1
        elif part in (marks.first, marks.last):
            start = place + 1  # refused below
            break
        place += len(utf8(part)) if part not in marks else 0
    if start >= 0:
        raise ChatError("the template cuts the assistant's text: it needs {% generation %} blocks around it")
    return spans


def broken(value: Any, names: Sequence[str], mark: str) -> Any:
    """`value` with a mark inside each special token that stands in its texts; those that overlap get one each."""
    if isinstance(value, str):
        beginnings = "|".join(f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in names)
        return re.sub(f"({beginnings})", rf"\1{mark}", value) if names else value
    if isinstance(value, Mapping):
        return {broken(key, names, mark): broken(item, names, mark) for key, item in value.items()}
    return [broken(item, names, mark) for item in value] if isinstance(value, list | tuple) else value
