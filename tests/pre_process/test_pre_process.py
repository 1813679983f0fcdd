"""PreProcess: fit, save, load, transform; and the same from the command line."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import wikipedia_excerpt
from pre_process.__main__ import main
from pre_process.corpus import documents
from pre_process.encode_position import sinusoidal
from pre_process.pre_process import PreProcess, PreProcessError
from pre_process.token_shards import open_tokens, read_manifest
from pre_process.tokenizer import Tokenizer

TEXTS = ["The cat sat on the mat. " * 20, "A dog ran after the cat on the mat. " * 20]


def fit(**settings: object) -> PreProcess:
    arguments = {"vocab_size": 300, "d_model": 16, "context_length": 32, "epochs": 2} | settings
    return PreProcess.fit(lambda: iter(TEXTS), **arguments)  # type: ignore[arg-type]


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


def test_pattern_and_normalizer_are_kept(tmp_path: Path) -> None:
    fit(pattern="cl100k", normalizer="nfkc").save(tmp_path / "saved")
    tokenizer = PreProcess.load(tmp_path / "saved").tokenizer
    assert (tokenizer.pattern, tokenizer.normalizer) == ("cl100k", "nfkc")


def test_a_text_too_long_is_an_error(fitted: PreProcess) -> None:
    with pytest.raises(PreProcessError, match=r"a text has \d+ tokens, max_length is 32"):
        fitted.transform(["z" * 33])


@pytest.mark.parametrize("settings", [{"d_model": 7}, {"d_model": 0}, {"context_length": 0}, {"vocab_size": 10}])
def test_settings_that_cannot_be_fitted(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(settings.values())))):
        fit(**settings)


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


@pytest.mark.parametrize("name", ["tokenizer.json", "embeddings.npy", "settings.json"])
@pytest.mark.parametrize("size", [None, 0, 100])
def test_a_missing_or_truncated_file_is_named(name: str, size: int | None, folder: Path) -> None:
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if size is not None:
        (folder / name).write_bytes(content[:size])
    with pytest.raises(PreProcessError, match=name) as raised:
        PreProcess.load(folder)
    assert "\n" not in str(raised.value)


def test_files_of_two_fits_do_not_mix(folder: Path, tmp_path: Path) -> None:
    fit(vocab_size=270).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "embeddings.npy", folder)
    with pytest.raises(PreProcessError, match=r"embeddings\.npy is float32 \(270, 16\)"):
        PreProcess.load(folder)
    shutil.copy(tmp_path / "other" / "tokenizer.json", folder)
    with pytest.raises(PreProcessError, match=r"tokenizer\.json isn't the tokenizer"):
        PreProcess.load(folder)


def test_another_format_version(folder: Path) -> None:
    path = folder / "settings.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(PreProcessError, match="format version 9"):
        PreProcess.load(folder)


SMALL = ["--vocab-size", "280", "--d-model", "8", "--epochs", "1"]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text(TEXTS[0])
    out, arrays = tmp_path / "fitted", tmp_path / "a.npz"
    assert main(["fit", str(tmp_path / "a.txt"), "--out", str(out), *SMALL]) == 0
    assert "word vectors of 8 dimensions" in capsys.readouterr().out
    assert main(["transform", str(out), "the [cat]", "on", "--npz", str(arrays)]) == 0
    assert "']'" in capsys.readouterr().out
    expected = PreProcess.load(out).transform(["the [cat]", "on"])
    with np.load(arrays) as saved:
        for name, array in expected._asdict().items():
            np.testing.assert_array_equal(saved[name], array)


def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "a.txt"
    text.write_text(TEXTS[0])
    (tmp_path / "there").mkdir()
    out = ["--out", str(tmp_path / "out")]
    for arguments in (
        ["fit", str(tmp_path / "none.txt"), *out],
        ["fit", str(text), "--out", str(tmp_path / "there")],
        ["fit", str(text), "--out", str(text / "below"), *SMALL],
        ["fit", str(text), *out, "--vocab-size", "3"],
        ["fit", str(text), *out, "--d-model", "3"],
        ["transform", str(tmp_path), "x"],
        ["transform", str(tmp_path / "nowhere"), "x", "--npz", str(tmp_path / "no" / "a.npz")],
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "there"]


def test_a_corpus_becomes_token_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    books = tmp_path / "books"
    books.mkdir()
    for i in range(30):
        (books / f"{i}.txt").write_text(
            f"licence\n*** START OF THE PROJECT GUTENBERG EBOOK ***\nbook {i}\x07 " + "and more " * 30
        )
    arguments = ["tokens", str(books), "--tokenizer", str(folder), "--val-fraction", "0.1"]
    assert main([*arguments, "--out", str(tmp_path / "plain")]) == 0
    assert "next: python -m nanograd.train --data" in capsys.readouterr().out
    assert main([*arguments, "--out", str(tmp_path / "clean"), "--clean", "--gutenberg"]) == 0
    plain, cleaned = (read_manifest(tmp_path / name) for name in ("plain", "clean"))
    assert plain.splits["train"].documents == cleaned.splits["train"].documents == 27
    assert plain.source_sha256 != cleaned.source_sha256
    text = Tokenizer.load(folder).decode(open_tokens(tmp_path / "clean", "val")[:])
    assert "book" in text
    assert "licence" not in text
    assert "\x07" not in text
    assert main([*arguments, "--out", str(tmp_path / "plain")]) == 2
    assert "is there already" in capsys.readouterr().err


def test_the_excerpt_as_jsonl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "documents.jsonl"
    assert wikipedia_excerpt.main(["--out", str(path)]) == 0
    assert "documents   97" in capsys.readouterr().out
    assert list(documents(path)) == list(documents(None))
    assert wikipedia_excerpt.main(["--out", str(path / "below")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
