"""BPE as SentencePiece does it (Kudo and Richardson 2018), in the form of Llama: ids equal to that package's.

What is different from byte-level BPE: the first symbols are characters, a space is written ▁ and a text gets one in
front, any two neighbours are joined if they spell a piece (the highest score first, the leftmost of equals), and only
what is left unknown in the end becomes bytes. ▁ in a text is read as a space: decode(encode(text)) is not always text.
"""

import codecs
import math
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from reprlib import repr as short
from typing import Literal

import numpy as np

from pre_process.files import write_atomic
from pre_process.tokenizer.added_tokens import allowed_specials, split_specials
from pre_process.tokenizer.byte_level import has_lone_surrogate
from pre_process.tokenizer.decoder import checked_ids
from pre_process.tokenizer.encoder import CACHE_SIZE, LONGEST_REMEMBERED, apply_merges
from pre_process.tokenizer.json_files import faults_named
from pre_process.tokenizer.sentencepiece_files import Piece, PieceType, SentencePieceModel, dump_model, read_model
from pre_process.tokenizer.vocabulary import TokenizerError

FILE_NAME = "tokenizer.model"
SPACE = "▁"
UNKNOWN_SHOWN = " ⁇ "  # what sentencepiece decodes <unk> to
_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_ERRORS = "pre_process.tokenizer.replace_each_byte"  # Python makes one U+FFFD of several, sentencepiece does not
codecs.register_error(_ERRORS, lambda error: ("\ufffd" * (error.end - error.start), error.end))  # type: ignore[attr-defined]


def read_sentencepiece(path: str | Path) -> "SentencePieceTokenizer":
    """The tokenizer of a .model file by SentencePiece. Raises TokenizerError (what is wrong in it), OSError."""
    model = read_model(Path(path))
    with faults_named(Path(path)):
        return SentencePieceTokenizer(model)


class SentencePieceTokenizer:
    """Text ↔ ids by a SentencePiece model. Attributes: `model`, `vocab_size`, `special_tokens` (name → id).

    Special are the control pieces (<s>, </s>, …), which sentencepiece never finds in a text, and the user-defined ones,
    which it always finds. Here both are found if `allowed_special` names them.
    """

    def __init__(self, model: SentencePieceModel) -> None:
        self.model = model
        self.vocab_size = len(model.pieces)
        self._ids = _number(model.pieces)
        self._controls = self._named(PieceType.CONTROL)
        self._user_defined = self._named(PieceType.USER_DEFINED)
        self.special_tokens = self._controls | self._user_defined
        self._byte_ids = [self._ids[f"<0x{byte:02X}>"] for byte in range(256)]
        self._symbols, self._ranks = _merges(model.pieces)
        self._only_in_pieces = {i: character for character, i in self._symbols.items() if i >= self.vocab_size}
        self._word = _word_pattern(model.pieces)
        self._cache: dict[str, list[int]] = {}

    def __repr__(self) -> str:
        return f"<SentencePieceTokenizer: {self.vocab_size} tokens, {len(self.special_tokens)} special>"

    def save(self, folder: str | Path) -> None:
        """Write `folder`/tokenizer.model in one step; the folder is made if need be. Raises OSError."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_atomic(Path(folder) / FILE_NAME, dump_model(self.model))

    def _named(self, kind: PieceType) -> dict[str, int]:
        return {piece.text: i for i, piece in enumerate(self.model.pieces) if piece.type == kind}

    def encode(self, text: str, *, allowed_special: Collection[str] | Literal["all"] = ()) -> np.ndarray:
        """Ids (n,) int32 of `text`, neither <s> nor </s> added. Raises TokenizerError."""
        if not isinstance(text, str) or has_lone_surrogate(text):
            raise TokenizerError("encode wants one str without lone surrogates, which SentencePiece has no ids for")
        allowed = allowed_specials(self.special_tokens, allowed_special)
        controls = {name: i for name, i in allowed.items() if name in self._controls}
        symbols = {name: i for name, i in allowed.items() if name in self._user_defined}
        ids: list[int] = []
        for stretch in split_specials(text, controls, {}):
            parts = [stretch] if isinstance(stretch, int) else split_specials(self._escaped(stretch), symbols, {})
            for part in parts:
                ids += [part] if isinstance(part, int) else self._encode_plain(part)
        return np.array(ids, dtype=np.int32)

    def _escaped(self, text: str) -> str:
        strips = self.model.remove_extra_whitespaces
        if strips:
            text = re.sub(" +", " ", text.lstrip(" "))
        escaped = (SPACE * self.model.add_dummy_prefix + text).replace(" ", SPACE) if text else ""
        return escaped.rstrip(SPACE) if strips else escaped

    def _encode_plain(self, text: str) -> Iterator[int]:
        for word in self._word.findall(text):
            ids = self._cache.get(word)
            if ids is None:
                ids = self._encode_word(word)
                if len(self._cache) >= CACHE_SIZE:
                    self._cache.clear()
                if len(word) <= LONGEST_REMEMBERED:
                    self._cache[word] = ids
            yield from ids

    def _encode_word(self, word: str) -> list[int]:
        first_unknown = self.vocab_size + len(self._symbols)  # ids from here on are places in `word`
        symbols = [self._symbols.get(character, first_unknown + i) for i, character in enumerate(word)]
        ids: list[int] = []
        for symbol in apply_merges(symbols, self._ranks):
            if symbol < self.vocab_size:
                ids.append(symbol)
            else:
                character = self._only_in_pieces.get(symbol) or word[symbol - first_unknown]
                ids += [self._byte_ids[byte] for byte in character.encode()]
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray, *, skip_special: bool = True) -> str:
        """The text of `ids` (n,) without the space in front; a byte that is no UTF-8 becomes U+FFFD.

        Control pieces leave no trace unless `skip_special` is False. Raises TokenizerError for ids that do not exist.
        """
        pieces = [self.model.pieces[token_id] for token_id in checked_ids(ids, self.vocab_size)]
        strips_one = self.model.add_dummy_prefix or self.model.remove_extra_whitespaces
        parts: list[str] = []
        for is_byte, run in groupby(pieces, key=lambda piece: piece.type == PieceType.BYTE):
            if is_byte:
                parts.append(bytes(int(piece.text[3:5], 16) for piece in run).decode("utf-8", _ERRORS))
                continue
            for piece in run:
                at_start = strips_one and not any(parts)
                part = _shown(piece, skip_special=skip_special)
                if at_start and piece.text.startswith(SPACE):
                    part, strips_one = part[1:], self.model.remove_extra_whitespaces
                parts.append(part)
        return "".join(parts)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token (of a control piece: its name). Raises TokenizerError for a wrong id."""
        [token_id] = checked_ids([token_id], self.vocab_size)
        piece = self.model.pieces[token_id]
        return bytes.fromhex(piece.text[3:5]) if piece.type == PieceType.BYTE else _shown(piece).encode()


def _shown(piece: Piece, *, skip_special: bool = False) -> str:
    """The text of a piece that is no byte."""
    if piece.type == PieceType.CONTROL:
        return "" if skip_special else piece.text
    return UNKNOWN_SHOWN if piece.type == PieceType.UNKNOWN else piece.text.replace(SPACE, " ")


def _number(pieces: Sequence[Piece]) -> dict[str, int]:
    """Piece → id. Raises TokenizerError for pieces that contradict each other."""
    ids: dict[str, int] = {}
    for token_id, piece in enumerate(pieces):
        if not piece.text or ids.setdefault(piece.text, token_id) != token_id:
            raise TokenizerError(
                f"piece {token_id}, {short(piece.text)}, is {'there twice' if piece.text else 'empty'}"
            )
        if piece.type == PieceType.UNUSED or (piece.type == PieceType.BYTE) != (piece.text in _BYTES):
            raise TokenizerError(f"piece {token_id}, {short(piece.text)}, is of type {piece.type.name}: not supported")
        if math.isnan(piece.score):
            raise TokenizerError(f"piece {token_id}, {short(piece.text)}, has no score")
    if missing := _BYTES - ids.keys():
        raise TokenizerError(f"{len(missing)} of the 256 byte pieces are missing: {min(missing)} …")
    return ids


def _merges(pieces: Sequence[Piece]) -> tuple[dict[str, int], dict[tuple[int, int], tuple[int, int]]]:
    """The first symbols (character → id) and the merges: (left, right) → (rank, id), equal scores equal ranks.

    A character that stands in longer pieces but is none itself gets an id behind the last piece: it can be merged.
    """
    normal = {piece.text: i for i, piece in enumerate(pieces) if piece.type == PieceType.NORMAL}
    symbols = {text: i for text, i in normal.items() if len(text) == 1}
    for character in sorted(set("".join(normal))):
        symbols.setdefault(character, len(pieces) + len(symbols))
    find, ranks = (symbols | normal).get, dict[tuple[int, int], tuple[int, int]]()
    by_score = sorted(normal.items(), key=lambda text_and_id: -pieces[text_and_id[1]].score)
    for rank, (_, equals) in enumerate(groupby(by_score, key=lambda text_and_id: pieces[text_and_id[1]].score)):
        for text, made in equals:
            for left, right in ((find(text[:cut]), find(text[cut:])) for cut in range(1, len(text))):
                if left is not None and right is not None:
                    ranks[left, right] = rank, made
    return symbols, ranks


def _word_pattern(pieces: Sequence[Piece]) -> "re.Pattern[str]":
    """What cuts a text into words that can be encoded one by one: in front of each ▁, unless a piece goes across."""
    crosses = re.compile(f"[^{SPACE}]{SPACE}").search
    if any(crosses(piece.text) for piece in pieces if piece.type == PieceType.NORMAL):
        return re.compile(r"[\s\S]+")
    return re.compile(f"{SPACE}+[^{SPACE}]*|[^{SPACE}]+")
