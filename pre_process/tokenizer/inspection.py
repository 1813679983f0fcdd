"""Looking into a vocabulary: how a text is cut, where a token comes from, how well a text is compressed."""

from typing import NamedTuple

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
    return "|".join(_readable(token) for token in _tokens(tokenizer, text))


def bytes_per_token(tokenizer: Tokenizer, text: str) -> float:
    """Bytes of UTF-8 per token: the compression; 1.0 means that nothing was merged, 0.0 stands for an empty text."""
    tokens = _tokens(tokenizer, text)
    return sum(map(len, tokens)) / max(1, len(tokens))


def _tokens(tokenizer: Tokenizer, text: str) -> list[bytes]:
    ids = tokenizer.encode(text, method="greedy" if tokenizer.vocabulary.needs_greedy else "merges")
    return [tokenizer.vocabulary.tokens[i] for i in ids]


def _readable(token: bytes) -> str:
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in token)
