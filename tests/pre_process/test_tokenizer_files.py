"""Files: what is written comes back, Hugging Face reads it with the same ids, other layouts are read."""

import json
from pathlib import Path
from typing import Any

import pytest

from pre_process.tokenizer import Tokenizer, TokenizerError, read_gpt2_files, read_word_list, write_gpt2_files
from tests.pre_process import tokenizer_texts as texts

SAMPLE = "The naïve <|pad|> cost: 1234 €\r\n\n\tto\u00a0中 'll  x"


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "naive"])
@pytest.mark.parametrize("normalizer", ["none", "nfc", "nfkc", "ascii"])
@pytest.mark.parametrize("lowercase", [False, True])
def test_a_saved_tokenizer_comes_back(tmp_path: Path, pattern: str, normalizer: str, lowercase: bool) -> None:
    options = {"pattern": pattern, "normalizer": normalizer, "lowercase": lowercase}
    tokenizer = Tokenizer.train(texts.documents("news")[:20], vocab_size=500, **options)  # type: ignore[arg-type]
    tokenizer.save(tmp_path / "new" / "folder")
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["tokenizer.json"]
    for path in (
        tmp_path / "new" / "folder",
        tmp_path / "new" / "folder" / "tokenizer.json",
        str(tmp_path / "new/folder"),
    ):
        again = Tokenizer.load(path)
        assert again.to_json() == tokenizer.to_json()
        assert again.sha256 == tokenizer.sha256
        assert (again.pattern, again.normalizer, again.lowercase) == (pattern, normalizer, lowercase)
        assert again.encode(SAMPLE).tolist() == tokenizer.encode(SAMPLE).tolist()


@pytest.mark.parametrize("options", [{}, {"normalizer": "nfc"}, {"normalizer": "nfkc", "lowercase": True}])
@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "naive"])
@pytest.mark.parametrize("name", texts.NAMES)
def test_hugging_face_loads_it_with_the_same_ids(name: str, pattern: str, options: dict[str, Any]) -> None:
    """Special tokens written in the text are the one difference: there they are always parsed, here when allowed."""
    hf = pytest.importorskip("tokenizers", reason="Hugging Face's tokenizers is not installed: nothing to compare with")
    documents = texts.documents(name)
    ours = Tokenizer.train(documents[:40], vocab_size=900, pattern=pattern, **options)  # type: ignore[arg-type]
    theirs = hf.Tokenizer.from_str(ours.to_json())
    for text in [*documents[40:60], documents[0][:20_000], SAMPLE, "", "e\u0301 ΑΣ ＡＢ ﬁ 한글 😀\u200d!?..\n  \n x"]:
        ids = ours.encode(text, allowed_special="all").tolist()
        assert theirs.encode(text).ids == ids
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids)


def test_hugging_face_refuses_what_it_would_encode_otherwise(tmp_path: Path) -> None:
    hf = pytest.importorskip("tokenizers", reason="Hugging Face's tokenizers is not installed: nothing to compare with")
    (tmp_path / "words.json").write_text('["<pad>", "a", "ab"]')
    to_ascii = Tokenizer.train(["a b"], vocab_size=300, normalizer="ascii")
    for tokenizer in (to_ascii, read_word_list(tmp_path / "words.json")):
        with pytest.raises(Exception, match="did not match any variant"):
            hf.Tokenizer.from_str(tokenizer.to_json())


def test_a_file_by_hugging_face_is_read(tmp_path: Path) -> None:
    """Its own layout of the same things: no types in old files, "a b" merges, specials behind the vocabulary."""
    ours = texts.tiny()
    tree = json.loads(ours.to_json())
    del tree["pre_tokenizer"]["use_regex"], tree["model"]["type"]
    tree["pre_tokenizer"]["trim_offsets"] = False
    tree["model"]["merges"] = [" ".join(pair) for pair in tree["model"]["merges"]]
    tree["added_tokens"].insert(0, {"id": 268, "content": "<|new|>", "special": True})
    tree |= {"post_processor": {"type": "ByteLevel", "trim_offsets": False}, "padding": {"strategy": "BatchLongest"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")
    theirs = Tokenizer.load(tmp_path)
    assert theirs.encode(SAMPLE).tolist() == ours.encode(SAMPLE).tolist()
    assert theirs.special_tokens == {"<|pad|>": 0, "<|endoftext|>": 1, "<|new|>": 268}
    assert theirs.encode("<|new|>", allowed_special="all").tolist() == [268]
    theirs.save(tmp_path)
    assert [token["id"] for token in json.loads(theirs.to_json())["added_tokens"]] == [0, 1, 268]
    assert Tokenizer.load(tmp_path).sha256 == theirs.sha256


def test_the_two_files_of_gpt2_come_back(tmp_path: Path) -> None:
    hf = pytest.importorskip("tokenizers", reason="Hugging Face's tokenizers is not installed: nothing to compare with")
    ours = texts.trained("gpt2")
    write_gpt2_files(ours, tmp_path)
    again = read_gpt2_files(tmp_path)
    assert again.to_json() == ours.to_json()
    theirs = hf.ByteLevelBPETokenizer.from_file(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    text = " ".join(texts.documents("news")[120:140])
    assert theirs.encode(text).ids == again.encode(text).tolist()


@pytest.mark.parametrize("options", [{"pattern": "naive"}, {"normalizer": "nfc"}, {"lowercase": True}])
def test_the_two_files_refuse_what_they_cannot_hold(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError, match=r"use save\(\)"):
        write_gpt2_files(Tokenizer.train(["a b"], vocab_size=400, **options), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("merges.txt", "#version: 0.2\nl o\nlo", "line 3, 'lo', is no pair of tokens of vocab.json"),
        ("merges.txt", "#version: 0.2\nl o\nlo zz\n", "line 3, 'lo zz', is no pair"),
        ("merges.txt", "#version: 0.2\nl o\n", "no merge makes the token"),
        ("merges.txt", "a b\n", "merge 0 joins b'a' and b'b' to no token"),
        ("merges.txt", b"\xff\xfe", "not UTF-8 text (byte 0 is 0xff)"),
        ("vocab.json", "{", "not valid JSON"),
        ("vocab.json", "[]", "the file is [], not a dict"),
        ("vocab.json", '{"a": 0, "b": 0}', "tokens 'a' and 'b' have the same id 0"),
    ],
)
def test_broken_gpt2_files(tmp_path: Path, file: str, content: str | bytes, message: str) -> None:
    write_gpt2_files(texts.tiny(), tmp_path)
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    found = texts.refusal(lambda: read_gpt2_files(tmp_path))
    assert found.startswith(f"{tmp_path / file}: ")
    assert message in found


WORDS = ["<pad>", "<unknown>", "<endoftext>", "<newline>", "<space>", "<tab>", "!", ".", "<", "H", "He", "Hello"]
WORDS += ["a", "al", "an", "and", "e", "l", "n", "o", "w", "wo"]
TABLE = {
    "special": {word: i for i, word in enumerate(WORDS[:9])},
    "H": {"complete_token": 9, "e": {"complete_token": 10, "l": {"l": {"o": {"complete_token": 11}}}}},
    "a": {"complete_token": 12, "l": {"complete_token": 13}, "n": {"complete_token": 14, "d": {"complete_token": 15}}},
    **{letter: {"complete_token": WORDS.index(letter)} for letter in "elno"},
    "w": {"complete_token": 20, "o": {"complete_token": 21}},
}


@pytest.mark.parametrize("content", [WORDS, TABLE], ids=["list", "table"])
def test_a_vocabulary_without_merges_is_read_and_encoded_greedily(tmp_path: Path, content: Any) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps(content))
    tokenizer = read_word_list(tmp_path / "vocab.json")
    names = [WORDS[i] for i in tokenizer.encode("Hello and  He!\n", method="greedy")]
    assert names == ["Hello", "<space>", "and", "<space>", "<space>", "He", "!", "<newline>"]
    assert (tokenizer.pad_id, tokenizer.end_of_text_id) == (0, 2)

    unknown = tokenizer.encode("zé<pad>", method="greedy")
    assert tokenizer.decode(unknown) == "zé<pad>"
    assert not {0, 1, 2} & set(unknown.tolist())  # unknown text becomes neither padding nor <unknown>
    with pytest.raises(TokenizerError, match="encode with method='greedy'"):
        tokenizer.encode("a")

    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).encode("Hello é", method="greedy").tolist() == (
        tokenizer.encode("Hello é", method="greedy").tolist()
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "there is no token in it"),
        ('{"special": {}}', "there is no token in it"),
        ('["a", 1]', "token 1 is 1, not a str"),
        ('["a", "a"]', "token 'a' stands there twice"),
        ('["a", ""]', "token 1 is empty"),
        ('["<space>", " "]', "tokens 0 and 1 are both b' '"),
        ('"a"', "the file is 'a', not a list"),
        ("{}", "the key 'special' is missing, not a dict"),
        ('{"special": {}, "ab": {"complete_token": 0}}', "the key 'ab' is not one character"),
        ('{"special": {}, "a": {"complete_token": 1}}', "token 'a' has id 1, not one of 0 … 0"),
        ('{"special": {}, "a": 0}', "the entry of 'a' is 0, not a dict"),
        ('["\\ud800"]', "holds a lone surrogate"),
    ],
)
def test_broken_word_lists(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "vocab.json").write_text(content)
    found = texts.refusal(lambda: read_word_list(tmp_path / "vocab.json"))
    assert found.startswith(f"{tmp_path / 'vocab.json'}: ")
    assert message in found


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    for call in (Tokenizer.load, read_word_list, read_gpt2_files):
        with pytest.raises(FileNotFoundError):
            call(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        Tokenizer.load(tmp_path)


def test_a_special_token_that_looks_like_an_ordinary_one_cannot_be_saved() -> None:
    """ "Ġ<" is how the ordinary token " <" is written in the file."""
    tokenizer = Tokenizer.train(["a < b < c <"], vocab_size=270, special_tokens=["Ġ<"])
    with pytest.raises(TokenizerError, match="looks like an ordinary token"):
        tokenizer.to_json()
