"""Reading files that somebody else wrote: every fault becomes one TokenizerError that names the file and the fault."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as short
from typing import Any, NoReturn

from pre_process.tokenizer.byte_level import has_lone_surrogate
from pre_process.tokenizer.vocabulary import TokenizerError


@contextlib.contextmanager
def faults_named(path: Path) -> Iterator[None]:
    """Put the file's name before the message of a TokenizerError raised inside."""
    try:
        yield
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None
    except RecursionError:
        raise TokenizerError(f"{path}: nested too deeply") from None


def read_text(path: Path) -> str:
    """The UTF-8 text of a file. Raises TokenizerError if it is something else, OSError if it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x})") from None


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises TokenizerError for anything that is not strict JSON or has a key twice."""
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_without_doubles, parse_constant=_refuse_constant)
    except TokenizerError:
        raise
    except ValueError as error:
        raise TokenizerError(f"not valid JSON ({error})") from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        key, count = Counter(key for key, _ in pairs).most_common(1)[0]
        raise TokenizerError(f"the key {short(key)} stands there {count} times")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise TokenizerError(f"not valid JSON ({name} is no number)")


def typed(value: Any, what: str, kind: type) -> Any:
    """`value` if it is a `kind`; else TokenizerError, saying what `what` is instead."""
    if type(value) is not kind:
        raise TokenizerError(f"{what} is {'missing' if value is None else short(value)}, not a {kind.__name__}")
    return value


def tokens_by_id(ids: dict[str, Any]) -> list[str]:
    """{token: id} → tokens in the order of their ids. Raises TokenizerError unless the ids are 0 … n − 1, each once."""
    tokens: list[str | None] = [None] * len(ids)
    for token, token_id in ids.items():
        if type(token_id) is not int or not 0 <= token_id < len(ids):
            raise TokenizerError(f"token {short(token)} has id {short(token_id)}, not one of 0 … {len(ids) - 1}")
        if tokens[token_id] is not None:
            raise TokenizerError(f"tokens {short(tokens[token_id])} and {short(token)} have the same id {token_id}")
        if has_lone_surrogate(token):
            raise TokenizerError(f"token {short(token)} holds a lone surrogate, which is not Unicode text")
        tokens[token_id] = token
    return [token for token in tokens if token is not None]
