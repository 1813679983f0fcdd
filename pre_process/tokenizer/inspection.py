"""Looking into a vocabulary: how a text is cut, where a token comes from, how well a text is compressed."""

from typing import NamedTuple

from pre_process.tokenizer.decoder import checked_ids
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


def show(tokenizer: Tokenizer, text: str) -> str:
    """The text with a bar between tokens: "Hello| world|!"; a token that is part of a character shows its bytes."""
    tokens = [tokenizer.token_bytes(i) for i in tokenizer.encode(text)]
    return "|".join(_readable(token) for token in tokens)


def bytes_per_token(tokenizer: Tokenizer, text: str) -> float:
    """Bytes of UTF-8 per token: the compression; 1.0 means that nothing was merged, 0.0 stands for an empty text."""
    ids = checked_ids(tokenizer.encode(text), tokenizer.vocab_size)
    return sum(len(tokenizer.vocabulary.tokens[i]) for i in ids) / max(1, len(ids))


def _readable(token: bytes) -> str:
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in token)
