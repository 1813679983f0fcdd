"""The word-level tokenizer: vocabulary and ids equal to Hugging Face's, files that both read, damage refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from pre_process.tokenizer import TokenizerError, WordLevelTokenizer
from pre_process.tokenizer.word_level import SPECIAL_TOKENS, split_words
from tests.pre_process import tokenizer_texts as texts

SMALL = ("[UNK]", "[PAD]", "[SOS]", "[EOS]", "[MASK]", "the", ",")


def hugging_face(documents: list[str], **options: Any) -> Any:
    hf = pytest.importorskip("tokenizers", reason="Hugging Face's tokenizers is not installed: nothing to compare with")
    tokenizer = hf.Tokenizer(hf.models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    trainer = hf.trainers.WordLevelTrainer(special_tokens=list(SPECIAL_TOKENS), show_progress=False, **options)
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


@pytest.mark.parametrize("n", [300, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("options", [{"min_frequency": 2}, {"min_frequency": 3, "vocab_size": 500}])
def test_vocabulary_and_ids_are_hugging_faces(n: int, options: dict[str, int]) -> None:
    documents = [*texts.documents("news")[:100], "naïve naïve Ⅷ Ⅷ ①Ⓐ ①Ⓐ x\u200dy x\u200dy 中文 中文 ½ ½"]
    ours, theirs = WordLevelTokenizer.train(documents, **options), hugging_face(documents, **options)
    assert theirs.get_vocab() == {token: token_id for token_id, token in enumerate(ours.tokens)}
    for text in texts.nasty_strings(n):
        ids = ours.encode(text, allowed_special="all").tolist()
        assert ids == theirs.encode(text).ids
        assert ours.decode(ids) == theirs.decode(ids)


@pytest.mark.slow
def test_every_character_is_cut_as_there() -> None:
    hf = pytest.importorskip("tokenizers", reason="Hugging Face's tokenizers is not installed: nothing to compare with")
    cut = hf.pre_tokenizers.Whitespace().pre_tokenize_str
    for number in (*range(0xD800), *range(0xE000, 0x110000)):
        text = f"a{chr(number)}b"
        assert split_words(text) == [piece for piece, _ in cut(text)]


def test_files_go_both_ways(tmp_path: Path) -> None:
    documents = texts.documents("news")[:30]
    ours, theirs = WordLevelTokenizer.train(documents), hugging_face(documents, min_frequency=2)
    ours.save(tmp_path / "ours")
    theirs.save(str(tmp_path / "theirs.json"))
    assert json.loads(theirs.to_str()) == json.loads(ours.to_json())
    for path in (tmp_path / "ours", tmp_path / "theirs.json"):
        again = WordLevelTokenizer.load(path)
        assert again.to_json() == ours.to_json()
        assert again.special_tokens == {name: i for i, name in enumerate(SPECIAL_TOKENS)}


def test_special_tokens_are_words_in_brackets_unless_allowed() -> None:
    tokenizer = WordLevelTokenizer([*SMALL, "MASK"])
    assert tokenizer.encode("the [MASK], the dog").tolist() == [5, 0, 7, 0, 5, 0]
    assert tokenizer.encode("the [MASK], the dog", allowed_special=["[MASK]"]).tolist() == [5, 4, 6, 5, 0]
    assert tokenizer.decode([2, 5, 0, 7, 3]) == "the MASK"
    assert tokenizer.decode([2, 5, 0], skip_special=False) == "[SOS] the [UNK]"
    assert tokenizer.token_bytes(5) == b"the"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WordLevelTokenizer.train([" \n"]), "the training text is empty"),
        (lambda: WordLevelTokenizer.train(["a"], vocab_size=5), "vocab_size 5 is too small"),
        (lambda: WordLevelTokenizer.train(["a"], special_tokens=["UNK"]), "special token 'UNK' looks like a word"),
        (lambda: WordLevelTokenizer.train(["a"], special_tokens="[UNK]"), "special_tokens is a list"),
        (lambda: WordLevelTokenizer.train(["a"], special_tokens=[]), "special_tokens is a list"),
        (lambda: WordLevelTokenizer(["a"]), r"the special token '[UNK]' is not in the vocabulary"),
        (lambda: WordLevelTokenizer(SMALL).encode(3), "encode wants one str, not int"),  # type: ignore[arg-type]
        (lambda: WordLevelTokenizer(SMALL).decode([7]), "id 7 is outside the vocabulary"),
    ],
)
def test_what_cannot_be_done_is_said(call: Any, message: str) -> None:
    assert message in texts.refusal(call)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model",), 3, "model is 3, not a dict"),
        (("model", "type"), "BPE", "model.type is 'BPE', not 'WordLevel'"),
        (("model", "unk_token"), None, "model.unk_token is missing, not a str"),
        (("model", "unk_token"), "[OOV]", "the special token '[OOV]' is not in the vocabulary"),
        (("model", "vocab", "the"), 6, "tokens 'the' and ',' have the same id 6"),
        (("model", "vocab", "[PAD]"), 9, "has another id in the vocabulary"),
        (("pre_tokenizer",), None, "the pre_tokenizer is None, not Whitespace"),
        (("normalizer",), {"type": "Lowercase"}, "the normalizer is 'Lowercase', not None"),
        (("added_tokens", 0, "lstrip"), True, "an added token is no plain special token"),
    ],
)
def test_broken_files(tmp_path: Path, path: tuple[str | int, ...], value: Any, message: str) -> None:
    tree = node = json.loads(WordLevelTokenizer(SMALL).to_json())
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    found = texts.refusal(lambda: WordLevelTokenizer.load(tmp_path))
    assert found.startswith(f"{tmp_path / 'tokenizer.json'}: ")
    assert message in found


def test_lone_surrogates_are_unknown_words(tmp_path: Path) -> None:
    tokenizer = WordLevelTokenizer.train(["a\ud800 a\ud800 b b"])
    tokenizer.save(tmp_path)
    assert tokenizer.encode("\ud800").tolist() == [0]
    with pytest.raises(TokenizerError):
        WordLevelTokenizer.load(tmp_path / "tokenizer.json").decode([99])
