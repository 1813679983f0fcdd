"""Opening a tokenizer in whatever file it lies; each format's own reader says more about it."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from pre_process.tokenizer.gpt2_files import read_gpt2_files
from pre_process.tokenizer.json_files import faults_named, read_json
from pre_process.tokenizer.sentencepiece import read_sentencepiece
from pre_process.tokenizer.tiktoken_files import read_tiktoken
from pre_process.tokenizer.tokenizer import Tokenizer
from pre_process.tokenizer.vocabulary import TokenizerError
from pre_process.tokenizer.word_level import WordLevelTokenizer


class TextTokenizer(Protocol):
    """What all tokenizers here can do."""

    vocab_size: int
    special_tokens: dict[str, int]

    def encode(self, text: str, *, allowed_special: Collection[str] | Literal["all"] = ()) -> np.ndarray:
        """Ids (n,) of `text`."""

    def decode(self, ids: Sequence[int] | np.ndarray, *, skip_special: bool = True) -> str:
        """The text of `ids` (n,)."""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token."""

    def save(self, folder: str | Path) -> None:
        """Write the file by which `open_tokenizer(folder)` gives this tokenizer again."""


def open_tokenizer(path: str | Path) -> TextTokenizer:
    """The tokenizer in a file (tokenizer.json, .model, .tiktoken) or in a folder that holds one.

    A folder may instead hold vocab.json and merges.txt: then GPT-2's pattern is assumed, as is cl100k's for a .tiktoken
    file. Raises TokenizerError (what is wrong in it), OSError.
    """
    path = Path(path)
    if path.is_dir():
        return _in_folder(path)
    if path.suffix == ".tiktoken":
        return read_tiktoken(path)
    if path.suffix == ".model":
        return read_sentencepiece(path)
    return _in_json(path)


def _in_folder(folder: Path) -> TextTokenizer:
    for name in ("tokenizer.json", "tokenizer.model"):
        if (folder / name).exists():
            return open_tokenizer(folder / name)
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return read_gpt2_files(folder)
    raise TokenizerError(f"{folder}: no tokenizer.json, tokenizer.model or vocab.json with merges.txt in this folder")


def _in_json(path: Path) -> TextTokenizer:
    """Tokenizer or WordLevelTokenizer, by the type that the model in the file has."""
    with faults_named(path):
        tree: Any = read_json(path)
    model = tree.get("model") if isinstance(tree, dict) else None
    if isinstance(model, dict) and model.get("type") == "WordLevel":
        return WordLevelTokenizer.load(path)
    return Tokenizer.load(path)
