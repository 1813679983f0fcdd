"""Looking into a vocabulary: how a text is cut, where a token comes from, how well a text is compressed."""

from collections.abc import Collection, Iterator
from typing import Literal, NamedTuple

import numpy as np

from pre_process.tokenizer.formats import TextTokenizer
from pre_process.tokenizer.tokenizer import Tokenizer


class TokenInfo(NamedTuple):
    """One token: its id, its bytes, what it is, and the two tokens it was merged from."""

    token_id: int
    content: bytes
    kind: str  # "special", "first symbol" or "merge"; "word" in a list without merges
    parts: tuple[int, int] | None


def token_info(tokenizer: Tokenizer, token_id: int) -> TokenInfo:
    """Where a token comes from. Raises TokenizerError for an id that does not exist."""
    content, vocabulary = tokenizer.token_bytes(token_id), tokenizer.vocabulary
    if token_id in vocabulary.specials.values():
        return TokenInfo(token_id, content, "special", None)
    parts = next((pair for pair, (_, made) in vocabulary.ranks.items() if made == token_id), None)
    if parts:
        return TokenInfo(token_id, content, "merge", parts)
    kind = "first symbol" if vocabulary.is_first_symbol(content) else "word"
    return TokenInfo(token_id, content, kind, None)


def encode(
    tokenizer: TextTokenizer, text: str, *, allowed_special: Collection[str] | Literal["all"] = ()
) -> np.ndarray:
    """Ids (n,) of `text`, by the longest match where the vocabulary came without merges."""
    if isinstance(tokenizer, Tokenizer) and tokenizer.vocabulary.needs_greedy:
        return tokenizer.encode(text, method="greedy", allowed_special=allowed_special)
    return tokenizer.encode(text, allowed_special=allowed_special)


def show(tokenizer: TextTokenizer, text: str) -> str:
    """The text with a bar between tokens: "Hello| world|!"; see `readable`."""
    return "|".join(readable(tokenizer.token_bytes(int(token_id))) for token_id in encode(tokenizer, text))


def readable(token: bytes) -> str:
    """A token for people and terminals: "↵" before a line break, bytes for half a character and for control ones."""
    try:
        text = token.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(map(_as_byte, token))
    return "".join(map(_readable_character, text))


def _readable_character(character: str) -> str:
    if character == "\n":
        return "↵\n"
    return character if character.isprintable() else "".join(map(_as_byte, character.encode()))


def _as_byte(byte: int) -> str:
    return f"<0x{byte:02X}>"


def bytes_per_token(tokenizer: TextTokenizer, text: str) -> float:
    """Bytes of UTF-8 per token: the compression; 1.0 means that nothing was merged, 0.0 stands for an empty text."""
    usage = Usage(tokenizer)
    usage.add(text)
    return usage.bytes_per_token


class Usage:
    """How a vocabulary fits a text that is added block by block: `n_bytes`, `n_words`, `n_tokens`, `counts` (V,)."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer
        self.n_bytes = self.n_words = 0
        self.counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)

    def add(self, text: str) -> None:
        """Count the tokens of a block, and its words: what white space separates."""
        self.counts += np.bincount(encode(self.tokenizer, text), minlength=len(self.counts))
        self.n_bytes += len(text.encode("utf-8", "surrogatepass"))
        self.n_words += len(text.split())

    @property
    def n_tokens(self) -> int:
        """Tokens so far."""
        return int(self.counts.sum())

    @property
    def bytes_per_token(self) -> float:
        """The compression, 0.0 before any text."""
        return self.n_bytes / max(1, self.n_tokens)

    @property
    def tokens_per_word(self) -> float:
        """ "Fertility": 1.0 would be a token for each word, white space and marks included; 0.0 before any word."""
        return self.n_tokens / max(1, self.n_words)

    def unused(self) -> np.ndarray:
        """Ids of the tokens that the text does not need, special ones left out."""
        never = self.counts == 0
        never[list(self.tokenizer.special_tokens.values())] = False
        return np.flatnonzero(never)

    def most_frequent(self, n: int) -> Iterator[tuple[int, int]]:
        """(id, count) of the `n` most frequent tokens, ties by id."""
        for token_id in np.argsort(-self.counts, kind="stable")[:n]:
            if self.counts[token_id]:
                yield int(token_id), int(self.counts[token_id])


def longest_tokens(tokenizer: TextTokenizer, n: int, among: np.ndarray | None = None) -> list[int]:
    """Ids of the `n` tokens with the most bytes, ties by id; of all that are not special, or of the ids `among`."""
    special = set(tokenizer.special_tokens.values())
    ids = range(tokenizer.vocab_size) if among is None else map(int, among)
    return sorted((i for i in ids if i not in special), key=lambda i: (-len(tokenizer.token_bytes(i)), i))[:n]
