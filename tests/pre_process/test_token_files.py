"""Token files: every document once, on one side, and nothing believed that the manifest doesn't say."""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import filelock
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pre_process.token_files import write_tokens
from pre_process.token_shards import Manifest, TokenFileError, open_tokens, read_manifest
from pre_process.tokenizer import Tokenizer

BYTES = Tokenizer.train(["no merges"], vocab_size=258)
END = BYTES.end_of_text_id


class WideTokenizer:
    """As many ids as code points: more than 16 bits."""

    vocab_size = 0x110000 + 1
    end_of_text_id = 0x110000
    sha256 = hashlib.sha256(b"wide").hexdigest()

    def encode_documents(self, texts: Sequence[str], *, end_of_text: bool) -> tuple[np.ndarray, None]:
        assert end_of_text
        ends = [[*map(ord, text), self.end_of_text_id] for text in texts]
        return np.concatenate(ends).astype(np.uint32), None

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_bytes(b"wide")


def write(folder: Path, texts: Sequence[str], tokenizer: object = BYTES, **settings: object) -> Manifest:
    return write_tokens(folder, lambda: iter(texts), tokenizer, source="here", source_sha256="abc", **settings)


def read(folder: Path, split: str) -> list[str]:
    """The documents of one split, cut at end-of-text."""
    ids = open_tokens(folder, split)[:]
    assert ids[-1] == END
    return [BYTES.decode(document[:-1]) for document in np.split(ids, np.flatnonzero(ids == END) + 1)[:-1]]


def articles(n: int, size: int = 400) -> list[str]:
    rng = np.random.default_rng(n)
    return [f"{i}\n\n" + "".join(rng.choice(list("abc d"), size)) for i in range(n)]


def test_every_document_comes_back_on_one_side(tmp_path: Path) -> None:
    texts = articles(60)
    manifest = write(tmp_path / "t", texts, val_fraction=0.1)
    train, val = read(tmp_path / "t", "train"), read(tmp_path / "t", "val")
    assert [text for text in texts if text not in val] == train  # the order of the source
    assert sorted(train + val) == sorted(texts)
    assert len(val) == 6
    assert manifest.split_by == "documents"
    assert manifest == read_manifest(tmp_path / "t")
    assert {path.name for path in (tmp_path / "t").iterdir()} == {
        "train-00000.npy", "val-00000.npy", "manifest.json", "tokenizer.json",
    }  # fmt: skip
    assert Tokenizer.load(tmp_path / "t").sha256 == manifest.tokenizer_sha256


def test_the_manifest_counts_what_is_there(tmp_path: Path) -> None:
    texts = ["é" * 30, *articles(30)]
    manifest = write(tmp_path / "t", texts)
    assert (manifest.source, manifest.source_sha256, manifest.vocab_size, manifest.dtype) == (
        "here",
        "abc",
        258,
        "uint16",
    )
    for name, counts in manifest.splits.items():
        documents = read(tmp_path / "t", name)
        assert counts.documents == len(documents)
        assert counts.bytes == sum(len(text.encode()) for text in documents)
        assert counts.tokens == counts.bytes + counts.documents == len(open_tokens(tmp_path / "t", name))


@given(texts=st.lists(st.text(min_size=2), min_size=1), val_fraction=st.floats(0.3, 0.7))
def test_any_texts_are_split_without_loss(
    texts: list[str], val_fraction: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tokens") / "t"
    manifest = write(folder, texts, val_fraction=val_fraction)
    train, val = read(folder, "train"), read(folder, "val")
    assert train
    assert val
    assert sum(counts.bytes for counts in manifest.splits.values()) == sum(len(text.encode()) for text in texts)
    if manifest.split_by == "documents":
        assert sorted(train + val) == sorted(texts)
        assert not set(train) & set(val)


def test_a_document_keeps_its_side_when_others_come(tmp_path: Path) -> None:
    texts = articles(400, size=50)
    write(tmp_path / "few", texts[:300])
    write(tmp_path / "more", texts)
    few, more = set(read(tmp_path / "few", "val")), set(read(tmp_path / "more", "val"))
    assert len(few) == 15
    moved = (few ^ more) & set(texts[:300])
    assert len(moved) <= 3  # the limit shifts a little; a new shuffle would move about 28


def test_training_keeps_a_document_however_large_the_fraction(tmp_path: Path) -> None:
    write(tmp_path / "t", articles(2), val_fraction=0.95)
    assert len(read(tmp_path / "t", "train")) == len(read(tmp_path / "t", "val")) == 1


def test_copies_never_straddle(tmp_path: Path) -> None:
    texts = articles(40) * 5
    write(tmp_path / "t", texts, val_fraction=0.2)
    assert not set(read(tmp_path / "t", "train")) & set(read(tmp_path / "t", "val"))


def test_a_single_document_gives_its_tail_from_a_paragraph_on(tmp_path: Path) -> None:
    text = "\n\n".join(f"Paragraph {i}. " + "word " * 20 for i in range(100))
    manifest = write(tmp_path / "t", [text], val_fraction=0.1)
    [train], [val] = read(tmp_path / "t", "train"), read(tmp_path / "t", "val")
    assert manifest.split_by == "tails"
    assert train + val == text
    assert val.startswith("Paragraph 8")
    assert 0.1 <= len(val) / len(text) <= 0.15


@pytest.mark.parametrize(("text", "tail"), [("abc\nde fgh", "de fgh"), ("abc defghi", "defghi"), ("abcdefgh", "efgh")])
def test_without_paragraphs_the_tail_starts_at_a_line_a_word_or_anywhere(text: str, tail: str, tmp_path: Path) -> None:
    write(tmp_path / "t", [text], val_fraction=0.5)
    assert read(tmp_path / "t", "val") == [tail]


def test_a_few_long_documents_each_give_their_tail(tmp_path: Path) -> None:
    manifest = write(tmp_path / "t", articles(3, size=3000))
    assert manifest.split_by == "tails"
    assert manifest.splits["train"].documents == manifest.splits["val"].documents == 3
    share = manifest.splits["val"].bytes / sum(counts.bytes for counts in manifest.splits.values())
    assert 0.05 <= share <= 0.075


def test_large_vocabularies_take_32_bits(tmp_path: Path) -> None:
    texts = [f"{i} 😀" * 10 for i in range(40)]
    manifest = write(tmp_path / "t", texts, WideTokenizer())
    ids = np.load(tmp_path / "t" / "train-00000.npy")
    assert manifest.dtype == ids.dtype == "uint32"
    assert ord("😀") in ids


def test_lone_surrogates_are_text_too(tmp_path: Path) -> None:
    write(tmp_path / "t", [*articles(30), "\ud800 alone"])


def test_the_name_of_the_end_inside_a_text_is_text(tmp_path: Path) -> None:
    write(tmp_path / "t", [f"{text} <|endoftext|> goes on" for text in articles(30)])
    assert len(read(tmp_path / "t", "train")) + len(read(tmp_path / "t", "val")) == 30


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    texts = articles(30)
    write(tmp_path / "t", texts, progress=lambda done, total: seen.append((done, total)))
    total = sum(len(text) for text in texts)
    assert seen[-1] == (total, total)
    assert sorted(seen) == seen


@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["x"]])
def test_too_little_text(texts: list[str], tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match=r"no text to encode|too short to split"):
        write(tmp_path / "t", texts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("val_fraction", [0, 1, -0.1, float("nan")])
def test_a_wrong_fraction(val_fraction: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="val_fraction"):
        write(tmp_path / "t", articles(30), val_fraction=val_fraction)


def test_an_error_half_way_leaves_nothing(tmp_path: Path) -> None:
    calls = []

    def documents() -> Iterator[str]:
        calls.append(1)
        yield from articles(20)
        if len(calls) == 2:
            raise OSError("the source went away")

    with pytest.raises(OSError, match="went away"):
        write_tokens(tmp_path / "t", documents, BYTES, source="", source_sha256="")
    assert list(tmp_path.iterdir()) == []


def test_killed_half_way_leaves_no_folder_that_looks_finished(tmp_path: Path) -> None:
    program = """
import os, pathlib, sys
from pre_process.token_files import write_tokens
from pre_process.tokenizer import Tokenizer
calls = []
def documents():
    calls.append(1)
    for i in range(50):
        if len(calls) == 2 and i == 40:
            os._exit(9)
        yield f"document {i} " * 20
tokenizer = Tokenizer.train(["no merges"], vocab_size=258)
write_tokens(pathlib.Path(sys.argv[1]), documents, tokenizer, source="", source_sha256="")
"""
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path / "t")], check=False).returncode == 9
    assert not (tmp_path / "t").exists()
    with pytest.raises(TokenFileError, match=r"manifest\.json is missing"):
        read_manifest(tmp_path / "t")
    write(tmp_path / "t", articles(30))  # and the next run isn't in its way


def test_a_folder_that_is_there_is_kept_and_described(tmp_path: Path) -> None:
    first = write(tmp_path / "t", articles(30))
    assert write(tmp_path / "t", articles(50)) == first


def test_a_full_disk_is_called_by_its_name(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(tmp_path / "t", articles(60))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError) as raised:
        write(tmp_path / "t", articles(30))
    assert raised.value.filename == str(tmp_path / "t")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here, where no file can be made")
def test_a_place_where_no_file_can_be_made_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filelock.FileLock, "acquire", lambda lock: pytest.fail("the lock is tried again for ever"))
    with pytest.raises(OSError) as raised:
        write(Path("/proc/tokens"), articles(30))
    assert raised.value.filename == "/proc/tokens"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError):
        write(tmp_path / "file" / "t", articles(30))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "t", articles(30))
    return tmp_path / "t"


def refuses(folder: Path, message: str) -> None:
    with pytest.raises(TokenFileError, match=message) as raised:
        read_manifest(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["manifest.json", "train-00000.npy", "val-00000.npy", "tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refuses(folder, rf"{name} is missing")


@pytest.mark.parametrize("size", [0, 5, 64, 200, -1])
def test_a_truncated_array_is_named(folder: Path, size: int) -> None:
    content = (folder / "train-00000.npy").read_bytes()
    (folder / "train-00000.npy").write_bytes(content[:size])
    refuses(folder, r"train-00000\.npy is damaged .*prepare it again")


def test_an_array_that_would_run_code_is_refused(folder: Path) -> None:
    np.save(folder / "val-00000.npy", np.array([{}], dtype=object), allow_pickle=True)
    refuses(folder, r"val-00000\.npy is damaged")


@pytest.mark.parametrize("change", [lambda ids: ids[:-1], lambda ids: ids.astype(np.int64), lambda ids: ids[None]])
def test_an_array_that_contradicts_the_manifest(folder: Path, change: object) -> None:
    np.save(folder / "train-00000.npy", change(np.load(folder / "train-00000.npy")))  # type: ignore[operator]
    refuses(folder, r"train-00000\.npy holds u?int\d+ of shape .* its manifest says uint16 of shape")


def test_an_id_outside_the_vocabulary(folder: Path) -> None:
    ids = np.load(folder / "train-00000.npy")
    ids[-1] = 258
    np.save(folder / "train-00000.npy", ids)
    refuses(folder, r"train-00000\.npy holds id 258, but the vocabulary has 258 tokens")


def test_a_changed_tokenizer(folder: Path) -> None:
    Tokenizer.train(["ab ab"], vocab_size=259).save(folder)
    refuses(folder, r"tokenizer\.json isn't the tokenizer of these ids")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, "has format version 1, this program reads 2"),
        ({"splits": {}}, "must describe shards of train and val, not nothing"),
        ({"dtype": "float32"}, "can't be read: Invalid enum value 'float32'"),
        ({"vocab_size": "many"}, "can't be read: Expected `int`"),
        ({"source": None}, "can't be read"),
    ],
)
def test_a_changed_manifest(folder: Path, changes: dict[str, object], message: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    refuses(folder, message)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_manifest_that_is_no_manifest(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    refuses(folder, r"manifest\.json can't be read")


def test_a_manifest_cannot_lead_out_of_the_folder(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["splits"]["../train"] = manifest["splits"]["train"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refuses(folder, "must describe shards of train and val")


def test_a_changed_id_is_noticed(folder: Path) -> None:
    content = bytearray((folder / "train-00000.npy").read_bytes())
    content[-3] ^= 1
    (folder / "train-00000.npy").write_bytes(content)
    refuses(folder, r"train-00000\.npy was changed since it was written|holds id")
