"""tokenizer.json by anybody: each fault has its line, and no damage brings out anything but a TokenizerError."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pre_process.tokenizer import Tokenizer, TokenizerError
from tests.pre_process import tokenizer_texts as texts

SAMPLE = "The naïve <|pad|> cost: 1234 €\r\n\n\tto\u00a0中 'll  x"
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def edited(path: tuple[str | int, ...], value: Any) -> str:
    """The JSON of a small tokenizer with one value changed."""
    tree = node = json.loads(texts.tiny().to_json())
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return json.dumps(tree)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        (texts.tiny().to_json()[:4000], "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        (texts.tiny().to_json().encode("utf-16"), "not UTF-8 text (byte 0 is 0xff)"),
        ("[1, 2]", "the file is [1, 2], not a dict"),
        ('{"a": 1}', "model is missing, not a dict"),
        ('{"model": 1, "model": 2}', "the key 'model' stands there 2 times"),
        ('{"model": NaN}', "NaN is no number"),
        (edited(("model", "vocab", "a"), 3), "have the same id 3"),
        (edited(("model", "vocab", "a"), 300), "token 'a' has id 300, not one of 0 … 267"),
        (edited(("model", "vocab", "a"), True), "token 'a' has id True"),
        (edited(("model", "vocab"), {"a": 0}), "tokens 'a' and '<|pad|>' have the same id 0"),
        (edited(("model", "vocab", "中"), 268), "the character '中' stands for no byte"),
        (edited(("model", "vocab", "\ud800"), 268), "holds a lone surrogate"),
        (edited(("model", "merges", 0), ["l", "zzz"]), "has a part that is not in the vocabulary: 'zzz'"),
        (edited(("model", "merges", 0), ["l", "l"]), "merge 0 joins b'l' and b'l' to no token"),
        (edited(("model", "merges", 0), ["l"]), "the merge ['l'] is no pair of tokens"),
        (edited(("model", "merges", 0), ["l", "o", "w"]), "the merge ['l', 'o', 'w'] is no pair of tokens"),
        (edited(("model", "merges", 1), ["l", "o"]), "merges 0 and 1 are the same"),
        (edited(("model", "merges"), []), "model.type is BPE with 0 merges for 268 tokens"),
        (edited(("model", "type"), "Unigram"), "model.type is 'Unigram', not 'BPE'"),
        (edited(("model", "ignore_merges"), 3), "model.ignore_merges is 3, not a bool"),
        (edited(("model", "byte_fallback"), True), "model.byte_fallback does not fit"),
        (edited(("normalizer",), {"type": "Replace"}), "the normalizer 'Replace' is not supported"),
        (edited(("pre_tokenizer",), {"type": "Whitespace"}), "the pre_tokenizer 'Whitespace' is none of gpt2, cl100k"),
        (edited(("pre_tokenizer", "use_regex"), False), "the pre_tokenizer 'ByteLevel' is none of"),
        (edited(("pre_tokenizer",), {"type": "Sequence"}), "the list pretokenizers is missing, not a list"),
        (edited(("post_processor",), {"type": "BertProcessing"}), "the post_processor 'BertProcessing' is"),
        (edited(("added_tokens", 0, "special"), None), "the key 'special' of '<|pad|>' is missing, not a bool"),
        (edited(("added_tokens", 0, "lstrip"), 1), "lstrip of '<|pad|>' is 1, not a bool"),
        (edited(("added_tokens", 0, "id"), 5), "the special token '<|pad|>' has the ids 0 and 5"),
        (edited(("added_tokens", 1, "content"), "<|pad|>"), "added token '<|pad|>' is there twice"),
        (edited(("added_tokens", 0), "<|pad|>"), "an added token is '<|pad|>', not a dict"),
        (edited(("added_tokens", 0, "content"), "lo"), "the special token 'lo' has the ids 258 and 0"),
    ],
)
def test_broken_tokenizer_files(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    found = texts.refusal(lambda: Tokenizer.load(path))
    assert found.startswith(f"{path}: ")
    assert len(found) < len(str(path)) + 150
    assert message in found


def still_works_or_refuses(path: Path) -> None:
    """Either the file is refused in one line, or the tokenizer it gives loses no text."""
    try:
        tokenizer = Tokenizer.load(path)
    except TokenizerError:
        assert texts.refusal(lambda: Tokenizer.load(path)).startswith(f"{path}: ")
        return
    method = "greedy" if tokenizer.vocabulary.needs_greedy else "merges"
    if (tokenizer.normalizer, tokenizer.lowercase) == ("none", False):
        assert tokenizer.decode(tokenizer.encode(SAMPLE, method=method)) == SAMPLE
    assert Tokenizer.load(path).to_json() == tokenizer.to_json()


byte_edits = st.lists(
    st.tuples(st.integers(0, 20_000), st.sampled_from(["cut", "flip", "insert", "delete"]), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("pattern", ["gpt2", "naive"])
@in_one_folder
@given(edits=byte_edits)
def test_only_tokenizer_errors_come_out_of_damaged_bytes(tmp_path: Path, pattern: str, edits) -> None:
    content = bytearray(_json(pattern))
    for place, what, byte in edits:
        place %= max(1, len(content))
        if what == "cut":
            del content[place:]
        elif what == "flip" and content:
            content[place] ^= byte
        elif what == "insert":
            content.insert(place, byte)
        else:
            del content[place : place + 1]
    (tmp_path / "tokenizer.json").write_bytes(content)
    still_works_or_refuses(tmp_path / "tokenizer.json")


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4)
    | st.sampled_from(["ByteLevel", "BPE", "LongestMatch", "Sequence", "<|pad|>", "lo", "é", "<0x80>", 0, 258, 267]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "id", "content", "a"]), inner),
    max_leaves=4,
)  # fmt: skip


@pytest.mark.parametrize("pattern", ["gpt2", "naive"])
@in_one_folder
@given(data=st.data())
def test_only_tokenizer_errors_come_out_of_changed_values(tmp_path: Path, pattern: str, data: st.DataObject) -> None:
    tree = json.loads(_json(pattern))
    for _ in range(data.draw(st.integers(1, 2))):
        places = list(_places(tree))
        node, key = places[data.draw(st.integers(0, len(places) - 1))]
        if data.draw(st.booleans()) and isinstance(node, dict):
            del node[key]
        else:
            node[key] = data.draw(any_json)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    still_works_or_refuses(tmp_path / "tokenizer.json")


def _json(pattern: str) -> bytes:
    return texts.tiny(pattern).to_json().encode()


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every value of the tree as (its dict or list, its key); of the vocabulary's bytes only the first few."""
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree))
    for key, value in items[:4] + items[-12:]:
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)
