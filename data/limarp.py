"""LimaRP-augmented: 804 role-play talks between adults, for a first try at conversations. Documents as jsonl.

    python -m data.limarp --out talks.jsonl

The text is sexually explicit in places. Nothing here uses it unless you ask for it by this command.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from data.command import Dataset, Document, run
from data.hub import HubFile

FILES = {"train": (HubFile("grimulkan/LimaRP-augmented", "LimaRP-augmented.json", "main"),)}
SPEAKERS = {"system": "", "human": "User: ", "gpt": "Assistant: "}
NOTICE = "note: LimaRP is adult role-play, explicit in places; read text-data-info/limarp.md before you use it"


class Turn(msgspec.Struct):
    """Who says what."""

    speaker: str = msgspec.field(name="from")
    value: str


class Talk(msgspec.Struct):
    """One record of the file."""

    conversations: list[Turn]
    id: str | int = ""


def talks(paths: Sequence[Path], split: str = "") -> Iterator[Document]:
    """One document a talk: its turns, a blank line between them, each with its speaker's name."""
    for path in paths:
        try:
            records = msgspec.json.decode(path.read_bytes(), type=list[Talk])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a list of {{id, conversations: [{{from, value}}]}} ({error})") from None
        for talk in records:
            if text := "\n\n".join(map(_spoken, talk.conversations)).strip():
                yield Document(text, title=str(talk.id))


def _spoken(turn: Turn) -> str:
    return SPEAKERS.get(turn.speaker, f"{turn.speaker}: ") + turn.value.strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Write the talks; returns the exit code."""
    return run(Dataset(name="limarp", read=talks, files=FILES, notice=NOTICE), argv, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main())
