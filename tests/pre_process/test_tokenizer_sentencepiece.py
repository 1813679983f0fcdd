"""SentencePiece models: ids and texts equal to the sentencepiece package's; other models and damage are refused."""

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pre_process.tokenizer import TokenizerError, read_sentencepiece
from tests.pre_process import tokenizer_texts as texts

LLAMA = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
    "character_coverage": 0.999,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "user-defined": {"user_defined_symbols": ["<tool>", "[INST]", "two words", "▁x"]},
    "crossing": {"split_by_whitespace": False, "split_by_unicode_script": False},
    "stripped": {"remove_extra_whitespaces": True, "pad_id": 3},
    "no-prefix": {"add_dummy_prefix": False},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The path of a model of a kind, trained the first time it is asked for."""
    trainer = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed: nothing to compare with")
    folder = tmp_path_factory.mktemp("models")
    (folder / "text.txt").write_text("\n".join(texts.documents("news")[:100]), encoding="utf-8")

    def path(kind: str) -> Path:
        if not (folder / f"{kind}.model").exists():
            trainer.SentencePieceTrainer.train(
                input=str(folder / "text.txt"),
                model_prefix=str(folder / kind),
                vocab_size=900,
                num_threads=1,
                minloglevel=2,
                max_sentence_length=100_000,
                **LLAMA | KINDS[kind],
            )
        return folder / f"{kind}.model"

    return path


@pytest.mark.parametrize("n", [300, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", list(KINDS))
def test_ids_and_texts_equal_the_package(model: Callable[[str], Path], kind: str, n: int) -> None:
    import sentencepiece

    ours = read_sentencepiece(model(kind))
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(model(kind)))
    always_found = KINDS[kind].get("user_defined_symbols", [])
    for text in [
        *texts.nasty_strings(n),
        "<tool>[INST] a two words<tool> x",
        "x▁x x ▁ two  words",
        "<s>a</s><unk><0x41>",
    ]:
        ids = ours.encode(text, allowed_special=always_found).tolist()
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == theirs.decode(ids)


@pytest.mark.parametrize("kind", ["user-defined", "stripped", "no-prefix"])
def test_any_ids_decode_as_in_the_package(model: Callable[[str], Path], kind: str) -> None:
    import sentencepiece

    ours = read_sentencepiece(model(kind))
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(model(kind)))
    rng = random.Random(0)
    for _ in range(500):
        ids = [rng.choice([rng.randrange(8), rng.randrange(262), rng.randrange(900)]) for _ in range(rng.randrange(12))]
        assert ours.decode(ids) == theirs.decode(ids)


def test_control_and_user_defined_pieces_are_plain_text_unless_allowed(model: Callable[[str], Path]) -> None:
    tokenizer = read_sentencepiece(model("user-defined"))
    assert tokenizer.special_tokens == {"<s>": 1, "</s>": 2, "<tool>": 3, "[INST]": 4, "two words": 5, "▁x": 6}
    plain = tokenizer.encode("<s>hello <tool>")
    assert not {1, 2, 3} & set(plain.tolist())
    assert tokenizer.decode(plain) == "<s>hello <tool>"
    found = tokenizer.encode("<s>hello <tool>", allowed_special="all").tolist()
    assert found[0] == 1
    assert found[-1] == 3
    assert tokenizer.decode(found) == "hello <tool>"
    assert tokenizer.decode(found, skip_special=False).startswith("<s>")
    assert b"".join(map(tokenizer.token_bytes, found[1:])) == b" hello <tool>"
    with pytest.raises(TokenizerError, match="lone surrogate"):
        tokenizer.encode("a\ud800")


# A model written by hand, for what the trainer does not make.


def field(number: int, value: bytes | int | float) -> bytes:
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    return varint(number << 3 | (0 if isinstance(value, int) else 2)) + (
        varint(value) if isinstance(value, int) else varint(len(value)) + value
    )


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


BYTES = [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
TRAINER = field(3, 2) + field(35, 1)
NORMALIZER = field(1, b"identity") + field(4, 0)


def written(pieces: list[tuple[str, float, int]], trainer: bytes = TRAINER, normalizer: bytes = NORMALIZER) -> bytes:
    rows = (field(1, field(1, text.encode()) + field(2, score) + field(3, kind)) for text, score, kind in pieces)
    return b"".join(rows) + field(2, trainer) + field(3, normalizer)


def test_odd_scores_and_missing_characters(tmp_path: Path) -> None:
    """Equal scores go to the leftmost, long pieces may come first, and "c" is only a part of pieces."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    rng, path = random.Random(1), tmp_path / "odd.model"
    for _ in range(60):
        words = {"".join(rng.choices("ab▁c", k=rng.randint(2, 5))) for _ in range(rng.randint(3, 30))} | {"a", "b", "▁"}
        pieces = [(word, float(rng.randint(-4, 0)), 1) for word in sorted(words)]
        path.write_bytes(written([("<unk>", 0.0, 2), *BYTES, *pieces]))
        ours, theirs = read_sentencepiece(path), sentencepiece.SentencePieceProcessor(model_file=str(path))
        for text in ("".join(rng.choices("aabc d", k=rng.randint(1, 40))) for _ in range(30)):
            assert ours.encode(text).tolist() == theirs.encode(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "model_type is not BPE"),
        (b'{"model": {"type": "BPE"}}', "no SentencePiece model"),
        (written([], TRAINER), "there is no piece in it"),
        (written(BYTES, field(3, 1)), "model_type is not BPE"),
        (written(BYTES, field(3, 2)), "the model has no byte_fallback"),
        (written(BYTES, TRAINER + field(24, 1)), "treat_whitespace_as_suffix"),
        (written(BYTES, normalizer=field(1, b"nmt_nfkc") + field(2, b"xx")), "the normalizer b'nmt_nfkc' rewrites"),
        (written(BYTES[1:]), "1 of the 256 byte pieces are missing: <0x00>"),
        (written([*BYTES, ("", 0.0, 1)]), "piece 256, '', is empty"),
        (written([*BYTES, ("a", 0.0, 1), ("a", 1.0, 1)]), "piece 257, 'a', is there twice"),
        (written([*BYTES, ("a", 0.0, 5)]), "piece 256, 'a', is of type UNUSED: not supported"),
        (written([*BYTES, ("a", 0.0, 6)]), "piece 256, 'a', is of type BYTE: not supported"),
        (written([*BYTES, ("a", 0.0, 9)]), "the piece b'a' is damaged"),
        (written([*BYTES, ("a", float("nan"), 1)]), "piece 256, 'a', has no score"),
        (written(BYTES)[:-3], "no SentencePiece model, or cut off"),
        (b"\x0a" + b"\xff" * 20, "no SentencePiece model, or cut off: no number at byte 1"),
        (written(BYTES) + field(1, 5), "a number stands where bytes should be"),
    ],
)
def test_other_models_and_damage_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "some.model"
    path.write_bytes(content)
    found = texts.refusal(lambda: read_sentencepiece(path))
    assert found.startswith(f"{path}: ")
    assert message in found


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_saved_model_is_the_same_to_us_and_to_the_package(
    model: Callable[[str], Path], kind: str, tmp_path: Path
) -> None:
    import sentencepiece

    ours = read_sentencepiece(model(kind))
    ours.save(tmp_path)
    assert read_sentencepiece(tmp_path / "tokenizer.model").model == ours.model
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for text in texts.documents("news")[:20]:
        assert theirs.encode(text) == ours.encode(text).tolist()
