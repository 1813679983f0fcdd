"""Reading the vocabulary files of the project that this one grew from: a JSON list of tokens, or its look-up table.

    list    ["<pad>", "<unknown>", "<endoftext>", "<newline>", "<space>", "<tab>", "!", …, "a", "al", "an", …]
    table   {"special": {"<pad>": 0, …}, "a": {"complete_token": 68, "l": {"complete_token": 69}, …}, …}

There are no merges: text is encoded by the longest match, `encode(text, method="greedy")`, and known text gets the ids
it had there. What the list cannot spell gets byte tokens, added behind its last id; there it became padding.
"""

from pathlib import Path
from reprlib import repr as short
from typing import Any

from pre_process.tokenizer.byte_level import utf8
from pre_process.tokenizer.json_files import faults_named, read_json, tokens_by_id, typed
from pre_process.tokenizer.pre_tokenize import WHITESPACE_NAMES
from pre_process.tokenizer.tokenizer import Tokenizer
from pre_process.tokenizer.vocabulary import ALL_BYTES, TokenizerError, Vocabulary

SPECIALS = ("<pad>", "<unknown>", "<endoftext>")
_END = "complete_token"


def read_word_list(path: str | Path) -> Tokenizer:
    """The tokenizer of such a file: naive pattern, characters, greedy. Raises TokenizerError or OSError."""
    path = Path(path)
    with faults_named(path):
        content = read_json(path)
        names = tokens_by_id(_ids_in_table(content) if isinstance(content, dict) else _ids_in_list(content))
        specials = {name: token_id for token_id, name in enumerate(names) if name in SPECIALS}
        tokens = [utf8(WHITESPACE_NAMES.get(name, name)) for name in names]
        tokens += sorted(ALL_BYTES - set(tokens))
        return Tokenizer(Vocabulary(tuple(tokens), (), specials, "character"), pattern="naive")


def _ids_in_list(content: Any) -> dict[str, Any]:
    ids: dict[str, Any] = {}
    for token_id, name in enumerate(typed(content, "the file", list)):
        if ids.setdefault(typed(name, f"token {token_id}", str), token_id) != token_id:
            raise TokenizerError(f"token {short(name)} stands there twice")
    return ids or _refuse_empty()


def _ids_in_table(content: dict[str, Any]) -> dict[str, Any]:
    """Walk the nested dicts: the keys on the way spell a token, `complete_token` holds its id."""
    ids = dict(typed(content.get("special"), "the key 'special'", dict))
    todo: list[tuple[str, Any]] = [("", {key: child for key, child in content.items() if key != "special"})]
    while todo:
        spelled, node = todo.pop()
        for key, child in typed(node, f"the entry of {short(spelled)}", dict).items():
            if key == _END:
                ids[spelled] = child
            elif len(key) == 1:
                todo.append((spelled + key, child))
            else:
                raise TokenizerError(f"the key {short(key)} is not one character")
    return ids or _refuse_empty()


def _refuse_empty() -> dict[str, Any]:
    raise TokenizerError("there is no token in it")
