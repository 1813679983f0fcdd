"""Files that Hugging Face's tokenizers wrote: ids equal there and here, habits of added tokens included."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from pre_process.tokenizer import (
    Tokenizer,
    TokenizerError,
    WordLevelTokenizer,
    open_tokenizer,
    read_gpt2_files,
    write_gpt2_files,
    write_tiktoken,
)
from pre_process.tokenizer.pre_tokenize import PATTERNS
from tests.pre_process import tokenizer_texts as texts

SPECIALS = ("PAD", "UNKNOWN", "START", "END", "SYSTEM", "USER", "ASSISTANT", "EOT", "INFOSTART", "INFOEND")
ADDED: dict[str, dict[str, bool]] = {
    "<L>": {"lstrip": True, "normalized": False},
    "<R>": {"rstrip": True},
    "word": {"single_word": True},
    "<LR>": {"lstrip": True, "rstrip": True, "single_word": True},
    "    ": {},
    "é中": {},
}
KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "prefix space": {"add_prefix_space": True},
    "cl100k": {"split": PATTERNS["cl100k"]},
    "cl100k, removed": {"split": PATTERNS["cl100k"], "behavior": "removed", "invert": True},
    "gpt2 as a split": {"split": PATTERNS["gpt2"], "ignore_merges": True},
    "naive": {"split": PATTERNS["naive"]},
}


@pytest.fixture(scope="module")
def hf() -> Any:
    return pytest.importorskip(
        "tokenizers", reason="Hugging Face's tokenizers is not installed: nothing to compare with"
    )


def trained(
    hf: Any,
    *,
    split: str | None = None,
    behavior: str = "isolated",
    invert: bool = False,
    add_prefix_space: bool = False,
    ignore_merges: bool = False,
) -> Any:
    """A tokenizer of theirs with all kinds of added tokens."""
    theirs = hf.Tokenizer(hf.models.BPE(ignore_merges=ignore_merges))
    byte_level = hf.pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=split is None)
    if split:
        first = hf.pre_tokenizers.Split(hf.Regex(split), behavior, invert)
        byte_level = hf.pre_tokenizers.Sequence([first, byte_level])
    theirs.pre_tokenizer, theirs.decoder = byte_level, hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator(texts.documents("news")[:60], trainer)
    theirs.add_tokens([hf.AddedToken(name, **flags) for name, flags in ADDED.items()])
    theirs.add_special_tokens([hf.AddedToken("<|im|>", lstrip=True)])
    theirs.post_processor = hf.processors.TemplateProcessing("<pad> $A", special_tokens=[("<pad>", 0)])
    return theirs


@texts.HOW_MANY
@pytest.mark.parametrize("kind", list(KINDS))
def test_ids_and_texts_are_equal(tmp_path: Path, hf: Any, kind: str, n: int, compiled: bool, monkeypatch) -> None:
    texts.encode_compiled(monkeypatch, compiled)
    theirs = trained(hf, **KINDS[kind])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours, rng, strings = Tokenizer.load(tmp_path), random.Random(n), texts.nasty_strings(300)
    between = [*ADDED, "<|im|>", "<pad>", " ", "\n", "_", "x", "1"]
    for _ in range(n):
        text = "".join(rng.choice(between if rng.random() < 0.5 else strings) for _ in range(rng.randrange(1, 7)))
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, allowed_special="all").tolist() == ids
        if "é中" not in text:  # written as bytes there, and as broken ones
            assert ours.decode(ids) == theirs.decode(ids)
    plain = ours.encode("word <L>    é中<|im|>")
    assert set(plain.tolist()).isdisjoint(ours.special_tokens.values())


def test_what_was_read_is_written_again(tmp_path: Path, hf: Any) -> None:
    for number, options in enumerate(KINDS.values()):
        theirs, folder = trained(hf, **options), tmp_path / str(number)
        theirs.save(str(tmp_path / "tokenizer.json"))
        ours = Tokenizer.load(tmp_path)
        ours.save(folder)
        assert Tokenizer.load(folder).to_json() == ours.to_json()
        again = hf.Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert again.get_vocab() == theirs.get_vocab()
        tree, wanted = json.loads(again.to_str()), json.loads(theirs.to_str())
        assert tree["added_tokens"] == wanted["added_tokens"]
        assert tree["model"]["merges"] == wanted["model"]["merges"]


@pytest.mark.parametrize("pattern", ["cl100k", "naive"])
def test_a_prefix_space_for_every_pattern(hf: Any, pattern: str) -> None:
    documents = texts.documents("news")[:30]
    ours = Tokenizer.train(documents, vocab_size=600, pattern=pattern, add_prefix_space=True)  # type: ignore[arg-type]
    theirs = hf.Tokenizer.from_str(ours.to_json())
    for text in texts.nasty_strings(200):
        assert ours.encode(text, allowed_special="all").tolist() == theirs.encode(text).ids


@texts.HOW_MANY
def test_the_two_files_with_ten_specials_and_a_prefix_space(
    tmp_path: Path, hf: Any, n: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Hugging Face's ByteLevelBPETokenizer saves them for a model of ours."""
    texts.encode_compiled(monkeypatch, compiled)
    names = [f"<|{name}|>" for name in SPECIALS]
    theirs = hf.ByteLevelBPETokenizer(add_prefix_space=True)
    theirs.train_from_iterator(
        texts.documents("news")[:60], vocab_size=1000, min_frequency=2, special_tokens=names, show_progress=False
    )
    theirs.save_model(str(tmp_path), "bpe_model")
    options = {"special_tokens": names, "add_prefix_space": True, "prefix": "bpe_model"}
    ours = read_gpt2_files(tmp_path, **options)  # type: ignore[arg-type]
    assert ours.special_tokens == {name: token_id for token_id, name in enumerate(names)}
    for text in texts.nasty_strings(n):
        ids = theirs.encode(text).ids
        assert ours.encode(text).tolist() == ids
        assert ours.decode(ids) == theirs.decode(ids)
    assert not set(ours.encode("<|USER|>").tolist()) & set(range(10))
    write_gpt2_files(ours, tmp_path / "again", prefix="bpe_model")
    assert read_gpt2_files(tmp_path / "again", **options).to_json() == ours.to_json()  # type: ignore[arg-type]


def test_a_tokenizer_is_opened_whatever_its_file(tmp_path: Path) -> None:
    ours, words = texts.trained("gpt2"), WordLevelTokenizer.train(["a a b b"])
    ours.save(tmp_path / "bpe")
    words.save(tmp_path / "words")
    write_gpt2_files(ours, tmp_path / "gpt2")
    write_tiktoken(ours, tmp_path / "x.tiktoken")
    for name in ("bpe", "bpe/tokenizer.json", "gpt2", "x.tiktoken"):
        opened = open_tokenizer(tmp_path / name)
        assert opened.encode("Hello there").tolist() == ours.encode("Hello there").tolist()
    assert isinstance(open_tokenizer(tmp_path / "words"), WordLevelTokenizer)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TokenizerError, match=r"no tokenizer.json, tokenizer.model or vocab.json"):
        open_tokenizer(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        open_tokenizer(tmp_path / "nowhere")
