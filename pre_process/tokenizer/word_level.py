"""One token for each word: the tokenizer of small translation and fill-in models. A rare word is [UNK] and lost.

Words and runs of marks are cut out and white space is dropped, so decode(encode(text)) is the words with one space
between them. Ids and file are those of Hugging Face's WordLevel model with the pre_tokenizer Whitespace.
"""

import functools
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from reprlib import repr as short
from typing import Literal

import numpy as np

from pre_process.files import write_atomic
from pre_process.tokenizer.added_tokens import WHITE_SPACE, allowed_specials, split_specials
from pre_process.tokenizer.byte_level import has_lone_surrogate
from pre_process.tokenizer.decoder import checked_ids
from pre_process.tokenizer.hugging_face_parts import Settings, read_added_tokens, type_of, written_added_token
from pre_process.tokenizer.json_files import faults_named, read_json, tokens_by_id, typed
from pre_process.tokenizer.vocabulary import PLAIN_SPECIAL, TokenizerError
from pre_process.tokenizer.word_characters import word_class

SPECIAL_TOKENS = ("[UNK]", "[PAD]", "[SOS]", "[EOS]", "[MASK]")
FILE_NAME = "tokenizer.json"


@functools.cache
def _words() -> "re.Pattern[str]":
    return re.compile(f"[{word_class()}]+|[^{word_class()}{WHITE_SPACE}]+")


def split_words(text: str) -> list[str]:
    """ "Hi, there…" → ["Hi", ",", "there", "…"]: runs of word characters, runs of marks, no white space."""
    return _words().findall(text)


class WordLevelTokenizer:
    """Words ↔ ids. Attributes: `tokens` (by id), `vocab_size`, `special_tokens` (name → id), `unknown_id`."""

    def __init__(
        self, tokens: Sequence[str], *, special_tokens: Collection[str] = SPECIAL_TOKENS, unknown: str = "[UNK]"
    ) -> None:
        self.tokens = tuple(tokens)
        self.vocab_size = len(self.tokens)
        ids = {token: token_id for token_id, token in enumerate(self.tokens)}
        if missing := [name for name in (unknown, *special_tokens) if name not in ids]:
            raise TokenizerError(f"the special token {short(missing[0])} is not in the vocabulary")
        self.special_tokens = {name: ids[name] for name in special_tokens}
        self.unknown, self.unknown_id = unknown, ids[unknown]
        self._ids: Mapping[str, int] = ids
        self._special_ids = frozenset(self.special_tokens.values())

    def __repr__(self) -> str:
        return f"<WordLevelTokenizer: {self.vocab_size} words, {len(self.special_tokens)} special>"

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocab_size: int = 30_000,
        min_frequency: int = 2,
        special_tokens: Sequence[str] = SPECIAL_TOKENS,
    ) -> "WordLevelTokenizer":
        """Special tokens first (the first is the unknown word), then the most frequent words, ties in code point order.

        Words seen fewer than `min_frequency` times stay unknown. Raises TokenizerError.
        """
        _check_specials(special_tokens)
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(split_words(text))
        if not counts:
            raise TokenizerError("the training text is empty: a tokenizer needs some text to learn from")
        room = vocab_size - len(special_tokens)
        if room < 1:
            raise TokenizerError(
                f"vocab_size {vocab_size} is too small: there are {len(special_tokens)} special tokens"
            )
        frequent = [word for word, count in counts.items() if count >= min_frequency and not has_lone_surrogate(word)]
        frequent.sort(key=lambda word: (-counts[word], word))
        return cls([*special_tokens, *frequent[:room]], special_tokens=special_tokens, unknown=special_tokens[0])

    def encode(self, text: str, *, allowed_special: Collection[str] | Literal["all"] = ()) -> np.ndarray:
        """Ids (n,) int32, one for each word. Special tokens in the text are plain text unless `allowed_special` names
        them. Raises TokenizerError."""
        if not isinstance(text, str):
            raise TokenizerError(f"encode wants one str, not {type(text).__name__}")
        ids: list[int] = []
        for stretch in split_specials(text, allowed_specials(self.special_tokens, allowed_special), {}):
            if isinstance(stretch, int):
                ids.append(stretch)
            else:
                ids += [self._ids.get(word, self.unknown_id) for word in split_words(stretch)]
        return np.array(ids, dtype=np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray, *, skip_special: bool = True) -> str:
        """The words of `ids` (n,) with a space between them. Raises TokenizerError for ids that do not exist."""
        skipped = self._special_ids if skip_special else frozenset[int]()
        return " ".join(self.tokens[i] for i in checked_ids(ids, self.vocab_size) if i not in skipped)

    def token_bytes(self, token_id: int) -> bytes:
        """The word in UTF-8. Raises TokenizerError for a wrong id."""
        [token_id] = checked_ids([token_id], self.vocab_size)
        return self.tokens[token_id].encode()

    def to_json(self) -> str:
        """The text of tokenizer.json in Hugging Face's layout."""
        specials = sorted(self.special_tokens.items(), key=lambda name_and_id: name_and_id[1])
        tree = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [written_added_token(name, token_id, PLAIN_SPECIAL) for name, token_id in specials],
            "normalizer": None,
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": None,
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": self._ids, "unk_token": self.unknown},
        }
        return json.dumps(tree, ensure_ascii=False, indent=1) + "\n"

    def save(self, folder: str | Path) -> None:
        """Write `folder`/tokenizer.json in one step; the folder is made if need be. Raises OSError."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_atomic(Path(folder) / FILE_NAME, self.to_json().encode("utf-8"))

    @classmethod
    def load(cls, path: str | Path) -> "WordLevelTokenizer":
        """Read tokenizer.json, or the folder that holds it. Raises TokenizerError (what is wrong in it) or OSError."""
        path = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
        with faults_named(path):
            tree = typed(read_json(path), "the file", dict)
            model = typed(tree.get("model"), "model", dict)
            if model.get("type") != "WordLevel":
                raise TokenizerError(f"model.type is {short(model.get('type'))}, not 'WordLevel'")
            for part, kind in (("pre_tokenizer", "Whitespace"), ("normalizer", None), ("decoder", None)):
                if type_of(tree.get(part)) != kind:
                    raise TokenizerError(f"the {part} is {short(type_of(tree.get(part)))}, not {kind}")
            ids = dict(typed(model.get("vocab"), "model.vocab", dict))
            names, added = read_added_tokens(tree, Settings())
            if added or any(ids.setdefault(name, i) != i for name, i in names.items()):
                raise TokenizerError("an added token is no plain special token, or has another id in the vocabulary")
            unknown = typed(model.get("unk_token"), "model.unk_token", str)
            return cls(tokens_by_id(ids), special_tokens=list(names), unknown=unknown)


def _check_specials(special_tokens: Sequence[str]) -> None:
    if isinstance(special_tokens, str) or not special_tokens or len(set(special_tokens)) < len(special_tokens):
        raise TokenizerError("special_tokens is a list of different names, the first for unknown words")
    for name in special_tokens:
        if split_words(name) in ([name], []) or has_lone_surrogate(name):
            raise TokenizerError(f"special token {name!r} looks like a word: write it like [NAME]")
