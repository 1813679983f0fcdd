"""PreProcess: fit, save, load, transform; and the same from the command line."""

import json
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pre_process.encode_position import sinusoidal
from pre_process.files import sha256_file
from pre_process.fitting import Sentences, TokenizerSettings, VectorSettings, encoded
from pre_process.pre_process import PreProcess
from pre_process.provenance import PreProcessError, Settings, read_provenance
from pre_process.token_files import write_tokens
from pre_process.token_shards import open_tokens
from pre_process.tokenizer import Tokenizer, WordLevelTokenizer, open_tokenizer, write_gpt2_files
from pre_process.tokenizer.formats import TextTokenizer
from pre_process.tokenizer.sentencepiece import SentencePieceTokenizer
from pre_process.tokenizer.sentencepiece_files import Piece, PieceType, SentencePieceModel

TEXTS = [f"The cat number {i} sat on the mat. A dog ran after the cat on the mat. " * 4 for i in range(10)]


def settings(**changes: object) -> Settings:
    """Small settings, with changes wherever a field of that name is."""
    given = {"vocab_size": 300, "d_model": 16, "context_length": 32, "epochs": 2} | changes
    own, trained, vectors = (
        {name: given[name] for name in kind.__struct_fields__ if name in given}
        for kind in (Settings, TokenizerSettings, VectorSettings)
    )
    return Settings(tokenizer=TokenizerSettings(**trained), vectors=VectorSettings(**vectors), **own)  # type: ignore[arg-type]


def fit(texts: list[str] = TEXTS, *, tokenizer: TextTokenizer | None = None, **changes: object) -> PreProcess:
    return PreProcess.fit(lambda: iter(texts), settings(**changes), tokenizer=tokenizer, source="ten texts")


@pytest.fixture(scope="module")
def fitted() -> PreProcess:
    return fit()


@pytest.fixture
def folder(fitted: PreProcess, tmp_path: Path) -> Path:
    fitted.save(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_vector_is_the_tokens_row_and_its_position(fitted: PreProcess) -> None:
    vectors, ids, mask = fitted.transform(["the cat", "a"])
    assert vectors.shape == (*ids.shape, 16)
    assert (vectors.dtype, ids.dtype, mask.dtype) == (np.float32, np.int32, np.bool_)
    assert fitted.tokenizer.decode(ids[0]) == "the cat"
    n = int(mask[0].sum())
    np.testing.assert_array_equal(vectors[0][mask[0]], fitted.embeddings[ids[0][mask[0]]] + sinusoidal(n, 16))
    assert not vectors[~mask].any()
    assert mask[1].tolist() == [False] * (mask.shape[1] - 1) + [True]  # padded on the left
    assert (ids[~mask] == fitted.tokenizer.pad_id).all()
    assert not fitted.embeddings[fitted.tokenizer.pad_id].any()


@given(texts=st.lists(st.text(max_size=5), min_size=1, max_size=4))
def test_a_text_gets_its_vectors_whatever_stands_beside_it(texts: list[str], fitted: PreProcess) -> None:
    left, right = fitted.transform(texts), fitted.transform(texts, pad="right")
    for b, text in enumerate(texts):
        alone = fitted.transform([text])
        for batch in (left, right):
            np.testing.assert_array_equal(batch.ids[b][batch.mask[b]], alone.ids[0])
            np.testing.assert_array_equal(batch.vectors[b][batch.mask[b]], alone.vectors[0])


def test_no_texts_give_an_empty_batch(fitted: PreProcess) -> None:
    assert fitted.transform([]).vectors.shape == (0, 0, 16)


@given(texts=st.lists(st.text(max_size=5), min_size=1, max_size=3))
def test_after_reload_ids_and_vectors_are_equal(
    texts: list[str], fitted: PreProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "reload"
    if not folder.exists():
        fitted.save(folder)
    for ours, theirs in zip(fitted.transform(texts), PreProcess.load(folder).transform(texts), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_equal_arguments_give_equal_bits(fitted: PreProcess) -> None:
    again = fit()
    assert again.tokenizer.to_json() == fitted.tokenizer.to_json()
    np.testing.assert_array_equal(again.embeddings, fitted.embeddings)
    assert not np.array_equal(fit(seed=1).embeddings, fitted.embeddings)


@pytest.mark.parametrize(
    "change",
    [{"engine": "gensim"}, {"architecture": "cbow"}, {"window": 2}, {"negative": 2}, {"sample": 0.0}, {"lr": 0.1}],
    ids=str,
)
def test_every_choice_changes_the_vectors(change: dict[str, object], fitted: PreProcess) -> None:
    other = fit(**change)
    assert other.tokenizer.to_json() == fitted.tokenizer.to_json()
    assert not np.array_equal(other.embeddings, fitted.embeddings)


def test_pattern_and_normalizer_are_kept(tmp_path: Path) -> None:
    fit(pattern="cl100k", normalizer="nfkc").save(tmp_path / "saved")
    tokenizer = PreProcess.load(tmp_path / "saved").tokenizer
    assert (tokenizer.pattern, tokenizer.normalizer) == ("cl100k", "nfkc")


def test_a_text_too_long_is_an_error(fitted: PreProcess) -> None:
    with pytest.raises(PreProcessError, match=r"a text has \d+ tokens, max_length is 32"):
        fitted.transform(["z" * 33])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 7}, "d_model 7 is odd"),
        ({"d_model": 0}, "d_model: Expected `int` >= 1, not 0"),
        ({"context_length": 0}, "context_length: Expected `int` >= 1, not 0"),
        ({"epochs": 0}, "epochs: Expected `int` >= 1, not 0"),
        ({"lr": float("nan")}, "lr: .* not nan"),
        ({"lr": 0.01, "min_lr": 0.02}, "min_lr 0.02 is more than lr 0.01"),
        ({"val_fraction": 1.0}, "val_fraction: .* not 1.0"),
        ({"val_fraction": float("nan")}, "val_fraction: .* not nan"),
        ({"vocab_size": 10}, "vocab_size 10 is too small"),
        ({"positions": "rotary"}, "rotary positions are part of a model"),
        ({"positions": "alibi"}, "nanograd.train --positions alibi"),
        ({"positions": "round"}, "sinusoidal or none, not 'round'"),
    ],
)
def test_settings_that_cannot_be_fitted(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        fit(**changes)
    assert "\n" not in str(raised.value)


def test_a_corpus_of_nothing_or_one_token() -> None:
    with pytest.raises(ValueError, match="empty"):
        fit([])
    with pytest.raises(ValueError, match="no text is left to learn from"):
        PreProcess.fit(lambda: iter([]), settings(val_fraction=0), tokenizer=Tokenizer.train(["a"], vocab_size=258))
    assert fit(["a"], val_fraction=0).provenance.corpus.tokens == 2  # it, and the end of the text


def test_without_positions_a_vector_is_the_tokens_row() -> None:
    fitted = fit(positions="none", d_model=7)  # without a sine for each cosine
    vectors, ids, mask = fitted.transform(["the cat", "a"])
    np.testing.assert_array_equal(vectors[mask], fitted.embeddings[ids[mask]])
    assert not vectors[~mask].any()


def test_what_is_too_long_can_be_cut(fitted: PreProcess) -> None:
    long = fitted.tokenizer.encode("z" * 40)
    np.testing.assert_array_equal(fitted.transform(["z" * 40], truncate="left").ids[0], long[-32:])


def test_tokens_never_seen_are_listed() -> None:
    fitted = fit(val_fraction=0)
    unseen = fitted.unseen()
    ids = np.concatenate([fitted.tokenizer.encode(text) for text in TEXTS])
    assert fitted.tokenizer.pad_id in unseen
    assert not np.isin(unseen, ids).any()
    lengths = np.linalg.norm(fitted.embeddings, axis=1)
    others = np.setdiff1d(unseen, [fitted.tokenizer.pad_id])
    np.testing.assert_allclose(lengths[others], lengths[fitted.counts > 0].mean(), rtol=1e-5)


@pytest.mark.parametrize("val_fraction", [0.0, 0.2])
def test_word2vec_reads_the_training_tokens_of_token_files(
    val_fraction: float, fitted: PreProcess, tmp_path: Path
) -> None:
    tokenizer = fitted.tokenizer
    assert isinstance(tokenizer, Tokenizer)
    with encoded(lambda: iter(TEXTS), tokenizer, val_fraction=val_fraction, progress=None) as text:
        ids = text.ids.tolist()
        assert [len(piece) for piece in Sentences(text.ids)] == [1000] * (len(ids) // 1000) + [len(ids) % 1000]
    if val_fraction:
        write_tokens(
            tmp_path / "t", lambda: iter(TEXTS), tokenizer, source="", source_sha256="", val_fraction=val_fraction
        )
        wanted = open_tokens(tmp_path / "t", "train")[:]
        assert (text.documents, text.bytes) == (8, sum(len(t) for t in TEXTS if len(t)) * 8 // 10)
    else:
        wanted = np.concatenate([[*tokenizer.encode(t), tokenizer.end_of_text_id] for t in TEXTS])
        assert text.documents == 10
    assert ids == wanted.tolist()


def test_texts_are_not_all_in_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some are worked on, some are read meanwhile: of 100 texts in batches of five, three batches are alive."""
    monkeypatch.setattr("pre_process.token_splits.BATCH_BYTES", 50_000)
    alive, most = weakref.WeakSet[Any](), 0

    class Text(str):
        __slots__ = ("__weakref__",)

    def documents() -> Iterator[str]:
        nonlocal most
        for i in range(100):
            text = Text(f"text {i} " + "a b " * 2500)
            alive.add(text)
            most = max(most, len(alive))
            yield text

    tokenizer = Tokenizer.train(["a b a b"], vocab_size=260)
    with encoded(documents, tokenizer, val_fraction=0.1, progress=None) as text:
        assert text.documents == 90
    assert most <= 20


@pytest.fixture(params=["word level", "gpt2 files", "tokenizer.json", "sentencepiece"])
def given_tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> TextTokenizer:
    """Opened from a file in each format."""
    folder = tmp_path / "given"
    if request.param == "word level":
        WordLevelTokenizer.train(TEXTS, vocab_size=30).save(folder)
    elif request.param == "sentencepiece":
        letters = [Piece(letter, 0.0, PieceType.NORMAL) for letter in "▁abcdefghijklmnopqrstuvwxyzTAD.0123456789"]
        pieces = [Piece(f"<0x{byte:02X}>", 0.0, PieceType.BYTE) for byte in range(256)]
        end = [Piece("<unk>", 0.0, PieceType.UNKNOWN), Piece("</s>", 0.0, PieceType.CONTROL)]
        model = SentencePieceModel((*end, *pieces, *letters), add_dummy_prefix=True, remove_extra_whitespaces=False)
        SentencePieceTokenizer(model).save(folder)
    else:
        trained = Tokenizer.train(TEXTS, vocab_size=280, special_tokens=["<|endoftext|>"])
        folder.mkdir()
        write_gpt2_files(trained, folder) if request.param == "gpt2 files" else trained.save(folder)
    return open_tokenizer(folder)


def test_any_tokenizer_can_be_given(given_tokenizer: TextTokenizer, tmp_path: Path) -> None:
    fitted = fit(tokenizer=given_tokenizer)
    assert fitted.settings.tokenizer is None
    fitted.save(tmp_path / "saved")
    again = PreProcess.load(tmp_path / "saved")
    assert type(again.tokenizer) is type(given_tokenizer)
    texts = ["the cat", "A dog sat on it."]
    for ours, theirs in zip(fitted.transform(texts), again.transform(texts), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    mask = again.transform(texts).mask
    assert mask[0].tolist() == sorted(mask[0].tolist())  # padded on the left, whatever id padding has
    for batch in (again.transform(texts), fit(tokenizer=given_tokenizer, positions="none").transform(texts)):
        assert not batch.vectors[~mask].any()


def test_one_must_be_given_or_trained() -> None:
    with pytest.raises(PreProcessError, match="give a tokenizer, or say how"):
        PreProcess.fit(lambda: iter(TEXTS), Settings(tokenizer=None))


def test_save_never_overwrites(fitted: PreProcess, folder: Path) -> None:
    with pytest.raises(FileExistsError, match="is there already"):
        fitted.save(folder)


def test_a_failing_save_leaves_nothing(fitted: PreProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("pre_process.pre_process.save_array", fail)
    with pytest.raises(OSError, match="disk full"):
        fitted.save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tokenizer.json", "embeddings.npy", "counts.npy", "provenance.json"])
@pytest.mark.parametrize("size", [None, 0, 100, -2])
def test_a_missing_or_truncated_file_is_named(name: str, size: int | None, folder: Path) -> None:
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if size is not None:
        (folder / name).write_bytes(content[:size])
    with pytest.raises(PreProcessError, match=name) as raised:
        PreProcess.load(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "embeddings.npy", "counts.npy"])
def test_one_bit_makes_a_file_another(name: str, folder: Path) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(PreProcessError, match=rf"{name} isn't the file that was saved \(sha256 .*\): fit again"):
        PreProcess.load(folder)


def test_files_of_two_fits_do_not_mix(folder: Path, tmp_path: Path) -> None:
    """Not even with a provenance that knows their hashes."""
    fit(d_model=12).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "embeddings.npy", folder)
    with pytest.raises(PreProcessError, match=r"embeddings\.npy isn't the file that was saved"):
        PreProcess.load(folder)
    content = (folder / "provenance.json").read_text()
    hashes = [
        json.loads((f / "provenance.json").read_text())["files"]["embeddings.npy"] for f in (folder, tmp_path / "other")
    ]
    (folder / "provenance.json").write_text(content.replace(*hashes))
    with pytest.raises(PreProcessError, match=r"embeddings\.npy is float32 \(\d+, 12\), .* float32 \(\d+, 16\)"):
        PreProcess.load(folder)


def test_the_folder_says_what_made_it(fitted: PreProcess, folder: Path) -> None:
    made = read_provenance(folder)
    assert made.corpus.source == "ten texts"
    assert made.settings == settings()
    assert made.versions.keys() == {"python", "nanograd", "numpy", "numba", "word2vec engine"}
    assert made.files == {path.name: sha256_file(path) for path in folder.iterdir() if path.name != "provenance.json"}
    assert made.corpus.tokens == fitted.counts.sum()


def test_another_format_version(folder: Path) -> None:
    path = folder / "provenance.json"
    path.write_text(path.read_text().replace('"format_version": 2', '"format_version": 9'))
    with pytest.raises(PreProcessError, match="format version 9"):
        PreProcess.load(folder)
