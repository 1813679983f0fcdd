"""Token files read piece by piece, .bin shards there and back, what is said of files that are not what they were."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pre_process.arrays import ArrayFileError, load_array
from pre_process.bin_shards import HEADER_BYTES, MAGIC, count_tokens, open_bin, write_bin
from pre_process.token_reader import open_reader
from pre_process.token_shards import TokenFileError, holds_tokens, open_tokens, read_manifest
from pre_process.tokenizer import Tokenizer

IDS = np.arange(100, dtype=np.uint16) * 7 % 90


def shards(folder: Path, kind: str, sizes: tuple[int, ...] = (40, 1, 59)) -> list[Path]:
    paths = []
    for number, part in enumerate(np.split(IDS, np.cumsum(sizes)[:-1])):
        path = folder / (f"train-{number:05}.npy" if kind == "npy" else f"fineweb_train_{number:06}.bin")
        np.save(path, part) if kind == "npy" else write_bin(path, part)
        paths.append(path)
    return paths


both = pytest.mark.parametrize("kind", ["npy", "bin"])


@both
def test_a_slice_across_shards_is_what_was_written(tmp_path, kind):
    shards(tmp_path, kind)
    reader = open_reader(tmp_path, "train", vocab_size=90)
    assert len(reader) == 100
    assert reader.dtype == np.uint16
    for start, stop in [(0, 100), (0, 0), (39, 42), (40, 41), (99, 100), (50, 500), (7, 3), (-3, 100)]:
        np.testing.assert_array_equal(reader[start:stop], IDS[start:stop])
    np.testing.assert_array_equal(open_tokens(tmp_path, "train")[:], IDS)


@given(ids=st.lists(st.integers(0, 2**16 - 1), max_size=50))
def test_bin_shards_there_and_back(ids, tmp_path_factory):
    path = tmp_path_factory.mktemp("bin") / "a_train_0.bin"
    write_bin(path, np.array(ids, np.int64))
    assert open_bin(path).tolist() == ids
    content = path.read_bytes()
    assert np.frombuffer(content, "<i4", 256).tolist() == [MAGIC, 1, len(ids), *[0] * 253]
    assert len(content) == HEADER_BYTES + 2 * len(ids)


@pytest.mark.parametrize("ids", [[0, 65536], [-1]])
def test_ids_that_16_bits_do_not_hold_are_not_written(tmp_path, ids):
    with pytest.raises(ValueError, match="don't fit into 16 bits"):
        write_bin(tmp_path / "a.bin", np.array(ids))
    assert list(tmp_path.iterdir()) == []


def lie(path: Path, field: int, value: int) -> None:
    content = bytearray(path.read_bytes())
    content[4 * field : 4 * field + 4] = value.to_bytes(4, "little", signed=True)
    path.write_bytes(content)


def cut(path: Path, size: int) -> None:
    os.truncate(path, path.stat().st_size - size)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: lie(path, 0, 7), "begins with 7 1, not with 20240520 1"),
        (lambda path: lie(path, 1, 2), "begins with 20240520 2"),
        (lambda path: lie(path, 2, 99), "holds 40 tokens, its header says 99"),
        (lambda path: lie(path, 2, -1), "holds 40 tokens, its header says -1"),
        (lambda path: cut(path, 3), r"holds 38\.5 tokens, its header says 40"),
        (lambda path: cut(path, 100), "has 1004 bytes, a shard's header alone has 1024"),
        (lambda path: path.write_bytes(b""), "has 0 bytes"),
    ],
)
def test_a_damaged_bin_shard_is_one_line(tmp_path, damage, message):
    path = shards(tmp_path, "bin")[0]
    damage(path)
    with pytest.raises(ArrayFileError, match=message):
        count_tokens(path)
    with pytest.raises(TokenFileError, match=f"fineweb_train_000000.bin .*{message}"):
        open_reader(tmp_path, "train", vocab_size=90)


@both
def test_an_id_beyond_the_vocabulary_is_named_with_its_place(tmp_path, kind):
    path = shards(tmp_path, kind)[2]
    reader = open_reader(tmp_path, "train", vocab_size=89)
    assert int(IDS.argmax()) == 77
    assert IDS[77] == 89
    place = path.stat().st_size - 2 * (100 - 77)
    reader[0:77]
    with pytest.raises(TokenFileError, match=f"{path.name} holds id 89 at byte {place:,}, but .* has 89 tokens"):
        reader[70:80]


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))  # as a copying tool may do
    other.replace(path)


def written_over(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    os.utime(path, ns=(1, 1))  # clocks of file systems tick in milliseconds: this test may be quicker


@both
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (replaced, "was changed or replaced during the run, noticed at byte"),
        (written_over, "was changed or replaced during the run, noticed at byte"),
        (lambda path: cut(path, 30), "was cut to [0-9,]+ bytes during the run, noticed at [0-9,]+"),
        (Path.unlink, "was removed during the run"),
    ],
)
def test_a_shard_that_changes_during_the_run_is_noticed_at_the_next_read(tmp_path, kind, damage, message):
    path = shards(tmp_path, kind)[0]
    reader = open_reader(tmp_path, "train", vocab_size=90)
    reader[0:40]
    damage(path)
    with pytest.raises(TokenFileError, match=f"{path.name} {message}"):
        reader[20:40]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros(5, np.int64), r"holds int64 of shape \(5,\)"),
        (np.zeros((5, 2), np.uint16), r"holds uint16 of shape \(5, 2\)"),
        (np.zeros(5, np.float32), "holds float32"),
    ],
)
def test_an_npy_of_another_kind_is_refused(tmp_path, content, message):
    np.save(tmp_path / "train-00000.npy", content)
    with pytest.raises(TokenFileError, match=message):
        open_reader(tmp_path, "train", vocab_size=9)


def test_a_cut_missing_or_foreign_npy_is_refused(tmp_path):
    with pytest.raises(TokenFileError, match=r"train-00000\.npy is missing"):
        open_reader(tmp_path, "train", vocab_size=9)
    path = shards(tmp_path, "npy")[1]
    cut(path, 1)
    with pytest.raises(TokenFileError, match=r"train-00001\.npy has 129 bytes, its header asks for 130: it was cut"):
        open_reader(tmp_path, "train", vocab_size=90)
    path.write_text("nonsense")
    with pytest.raises(TokenFileError, match=r"is damaged or not a \.npy file"):
        open_reader(tmp_path, "train", vocab_size=90)
    path.unlink()
    np.save(path, IDS.astype(np.uint32))
    with pytest.raises(TokenFileError, match="differ in dtype"):
        open_reader(tmp_path, "train", vocab_size=90)


@pytest.fixture
def bin_folder(tmp_path):
    tokenizer = Tokenizer.train(["the cat sat on the mat"] * 3, vocab_size=270)
    tokenizer.save(tmp_path)
    end = tokenizer.end_of_text_id
    for split, text in [("train", "the mat sat on the cat"), ("val", "on the mat")]:
        write_bin(tmp_path / f"x_{split}_000000.bin", np.array([end, *tokenizer.encode(text), end]))
    return tmp_path


def test_a_folder_of_bin_shards_is_described_by_what_it_holds(bin_folder):
    assert holds_tokens(bin_folder)
    manifest = read_manifest(bin_folder)
    assert manifest.splits["val"].bytes == len("on the mat")
    assert manifest.splits["train"].documents == 2
    assert manifest.splits["train"].tokens == len(open_tokens(bin_folder, "train"))
    assert manifest.vocab_size == Tokenizer.load(bin_folder).vocab_size


def test_what_a_folder_of_bin_shards_lacks_is_said(bin_folder):
    write_bin(bin_folder / "x_train_000001.bin", np.array([300]))
    with pytest.raises(TokenFileError, match=r"x_train_000001\.bin holds id 300, but the vocabulary has"):
        read_manifest(bin_folder)
    (bin_folder / "x_val_000000.bin").unlink()
    (bin_folder / "x_train_000001.bin").unlink()
    with pytest.raises(TokenFileError, match=r"has no \.bin shard with 'val' in its name"):
        read_manifest(bin_folder)
    (bin_folder / "tokenizer.json").unlink()
    with pytest.raises(TokenFileError, match="put the one that made their ids there"):
        read_manifest(bin_folder)


@pytest.mark.filterwarnings("ignore::Warning")  # Python has opinions about such expressions
def test_any_flipped_bit_of_a_header_is_one_line_or_does_no_harm(tmp_path):
    path = tmp_path / "train-00000.npy"
    np.save(path, IDS.astype(np.uint16))
    content = path.read_bytes()
    for place in range(8 * 128):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        for read in (load_array, lambda path: open_reader(path.parent, "train", vocab_size=90)):
            with contextlib.suppress(ArrayFileError, TokenFileError):
                read(path)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("shape", ["9" * 20, "2**63", "True", "4611686018427387904"])
def test_a_header_that_asks_for_the_impossible_is_one_line(tmp_path, shape):
    path = tmp_path / "vectors.npy"
    np.save(path, IDS.astype(np.uint16))
    header = f"{{'descr': '<u2', 'fortran_order': False, 'shape': ({shape},), }}".ljust(117).encode() + b"\n"
    path.write_bytes(path.read_bytes()[:10] + header + path.read_bytes()[128:])
    with pytest.raises(ArrayFileError, match=r"vectors\.npy is damaged"):
        load_array(path)
