"""SentencePiece's .model, read and written: a protobuf message, of which a dozen fields matter.

A message is a row of fields: a number that holds the field's own number and its wire type, then the value. Only the
fields listed here are looked at (sentencepiece_model.proto in github.com/google/sentencepiece); a model with a setting
that would lead to other ids than `SentencePieceTokenizer` gives is refused.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from reprlib import repr as short
from typing import NamedTuple

from pre_process.tokenizer.json_files import faults_named
from pre_process.tokenizer.vocabulary import TokenizerError

_BPE = 2  # TrainerSpec.model_type
_LONGEST_VARINT = 10  # bytes

Value = int | bytes
Fields = dict[int, list[Value]]


class PieceType(IntEnum):
    """What a piece is: only NORMAL ones are merged, CONTROL ones stand in no text."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Piece(NamedTuple):
    """One token: its text, in which ▁ stands for a space, its score (the highest is merged first) and its type."""

    text: str
    score: float
    type: PieceType


class SentencePieceModel(NamedTuple):
    """The pieces by id, and what happens to a text first."""

    pieces: tuple[Piece, ...]
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool


def read_model(path: Path) -> SentencePieceModel:
    """Read a .model file. Raises TokenizerError for damage and for all but byte-fallback BPE, OSError."""
    content = path.read_bytes()
    with faults_named(path):
        message = _fields(content)
        trainer, normalizer = _submessage(message, 2), _submessage(message, 3)
        _refuse_other_models(trainer, normalizer, _submessage(message, 5))
        pieces = tuple(_read_piece(value) for value in message.get(1, []))
        if not pieces:
            raise TokenizerError("no SentencePiece model: there is no piece in it")
        return SentencePieceModel(pieces, _flag(normalizer, 3, default=True), _flag(normalizer, 4, default=True))


def dump_model(model: SentencePieceModel) -> bytes:
    """The content of a .model file with these pieces and settings, which `read_model` and sentencepiece read."""
    pieces = b"".join(_written(1, _dump_piece(piece)) for piece in model.pieces)
    trainer = _written(3, _BPE) + _written(35, 1)  # byte_fallback
    normalizer = _written(1, b"identity") + _written(3, model.add_dummy_prefix)
    normalizer += _written(4, model.remove_extra_whitespaces) + _written(5, 1)  # escape_whitespaces
    return pieces + _written(2, trainer) + _written(3, normalizer)


def _dump_piece(piece: Piece) -> bytes:
    score = _number(2 << 3 | 5) + struct.pack("<f", piece.score)
    return _written(1, piece.text.encode()) + score + _written(3, piece.type)


def _written(number: int, value: Value) -> bytes:
    """A field: a number as a varint (wire type 0), bytes with their length in front (wire type 2)."""
    if isinstance(value, int):
        return _number(number << 3) + _number(value)
    return _number(number << 3 | 2) + _number(len(value)) + value


def _number(value: int) -> bytes:
    """A varint: groups of seven bits, the lowest first, the eighth bit set on all but the last."""
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes(group | 0x80 for group in groups[:-1]) + bytes(groups[-1:])


def _refuse_other_models(trainer: Fields, normalizer: Fields, denormalizer: Fields) -> None:
    if trainer.get(3, [1])[-1] != _BPE:
        raise TokenizerError("model_type is not BPE: only BPE models are read")
    if not _flag(trainer, 35, default=False):
        raise TokenizerError("the model has no byte_fallback: it would lose characters that it does not know")
    if normalizer.get(2, [b""])[-1] or denormalizer.get(2, [b""])[-1]:
        name = normalizer.get(1, [b"?"])[-1]
        raise TokenizerError(f"the normalizer {short(name)} rewrites characters: only 'identity' is read")
    if _flag(trainer, 24, default=False) or not _flag(normalizer, 5, default=True):
        raise TokenizerError("treat_whitespace_as_suffix, or white space that is not escaped, is not supported")


def _read_piece(value: Value) -> Piece:
    fields = _fields(_bytes(value))
    text, score, kind = (fields.get(number, [default])[-1] for number, default in ((1, b""), (2, bytes(4)), (3, 1)))
    try:
        name = _bytes(text).decode("utf-8")
        return Piece(name, struct.unpack("<f", _bytes(score))[0], PieceType(int(kind)))
    except (UnicodeDecodeError, struct.error, ValueError):
        raise TokenizerError(f"no SentencePiece model: the piece {short(text)} is damaged") from None


def _flag(fields: Fields, number: int, *, default: bool) -> bool:
    return bool(fields.get(number, [default])[-1])


def _submessage(message: Fields, number: int) -> Fields:
    return _fields(b"".join(map(_bytes, message.get(number, []))))  # protobuf: parts behind each other are one message


def _bytes(value: Value) -> bytes:
    if isinstance(value, int):
        raise TokenizerError("no SentencePiece model: a number stands where bytes should be")
    return value


def _fields(data: bytes) -> Fields:
    """Field number → its values: int for wire type 0, bytes for the others. Raises TokenizerError."""
    fields: Fields = {}
    for number, value in _walk(data):
        fields.setdefault(number, []).append(value)
    return fields


def _walk(data: bytes) -> Iterator[tuple[int, Value]]:
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        wire_type, size = tag & 7, 0
        if wire_type == 0:
            number, place = _varint(data, place)
            yield tag >> 3, number
            continue
        if wire_type == 2:
            size, place = _varint(data, place)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        if wire_type not in (1, 2, 5) or place + size > len(data):
            raise TokenizerError(f"no SentencePiece model, or cut off: field {tag >> 3} ends behind the end")
        yield tag >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and the place behind it."""
    value = 0
    for shift, byte in enumerate(data[place : place + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, place + shift + 1
    raise TokenizerError(f"no SentencePiece model, or cut off: no number at byte {place}")
