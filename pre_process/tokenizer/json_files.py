"""Reading JSON that somebody else wrote: every fault becomes one TokenizerError that names the file and the fault."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from pre_process.tokenizer.vocabulary import TokenizerError


def read_text(path: Path) -> str:
    """The UTF-8 text of a file. Raises TokenizerError if it is not UTF-8, OSError if it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"{path}: not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x})"
        ) from None


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises TokenizerError for anything that is not strict JSON or has a key twice."""
    try:
        return json.loads(read_text(path), object_pairs_hook=_without_doubles, parse_constant=_refuse_constant)
    except TokenizerError as error:
        raise error if str(error).startswith(str(path)) else TokenizerError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: not valid JSON ({error})") from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        key, count = Counter(key for key, _ in pairs).most_common(1)[0]
        raise TokenizerError(f"the key {key!r} stands there {count} times")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise TokenizerError(f"{name} is not JSON")


def tokens_by_id(ids: dict[str, Any]) -> list[str]:
    """{token: id} → tokens in the order of their ids. Raises TokenizerError unless the ids are 0 … n − 1, each once."""
    tokens: list[str | None] = [None] * len(ids)
    for token, token_id in ids.items():
        if type(token_id) is not int or not 0 <= token_id < len(ids):
            raise TokenizerError(f"token {token!r} has id {token_id!r}; ids must be 0 … {len(ids) - 1} without gaps")
        if tokens[token_id] is not None:
            raise TokenizerError(f"tokens {tokens[token_id]!r} and {token!r} have the same id {token_id}")
        tokens[token_id] = token
    return [token for token in tokens if token is not None]
