"""Token files in several shards: read as one array, continued after a kill to the same bytes."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pre_process import token_splits
from pre_process.token_files import write_tokens
from pre_process.token_shards import Manifest, Tokens, open_tokens
from pre_process.tokenizer import Tokenizer
from tests.pre_process.test_token_files import BYTES, articles, write


def small_shards(folder: Path, texts: Sequence[str], **settings: object) -> Manifest:
    return write(folder, texts, shard_tokens=5000, **settings)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_splits, "BATCH_BYTES", 1000)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("small_batches")
def test_shards_hold_what_one_file_would(tmp_path: Path) -> None:
    texts = articles(100)
    whole, manifest = write(tmp_path / "one", texts), small_shards(tmp_path / "many", texts)
    assert len(whole.splits["train"].shards) == 1
    assert len(manifest.splits["train"].shards) > 5
    for split in ("train", "val"):
        expected, found = open_tokens(tmp_path / "one", split), open_tokens(tmp_path / "many", split)
        assert isinstance(expected, np.memmap)
        assert len(found) == len(expected) == manifest.splits[split].tokens
        assert found.dtype == expected.dtype
        assert (found[:] == expected).all()
        counts = whole.splits[split]
        assert (counts.documents, counts.bytes) == (manifest.splits[split].documents, manifest.splits[split].bytes)


@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    places=st.lists(st.integers(0, 6), min_size=1, max_size=9),
    cut=st.tuples(st.integers(-40, 40), st.integers(-40, 40)),
)
def test_tokens_of_several_shards_are_one_array(sizes: list[int], places: list[int], cut: tuple[int, int]) -> None:
    whole = np.arange(sum(sizes), dtype=np.uint16)
    tokens = Tokens(np.split(whole, np.cumsum(sizes)[:-1]))
    inside = np.array(places)[None] % len(whole)
    assert (tokens[inside] == whole[inside]).all()
    assert (tokens[cut[0] : cut[1]] == whole[cut[0] : cut[1]]).all()
    assert tokens[:].dtype == np.uint16


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("dies_at", [1, 30, 55, 99])
def test_killed_anywhere_the_next_run_goes_on_to_the_same_bytes(tmp_path: Path, dies_at: int) -> None:
    texts, read = articles(100), []
    small_shards(tmp_path / "whole", texts)

    def documents() -> Iterator[str]:
        for number, text in enumerate(texts):
            read.append(number)
            if len(read) == 100 + dies_at:
                raise KeyboardInterrupt  # as good as a kill: nothing is written after it
            yield text

    with pytest.raises(KeyboardInterrupt):
        write_tokens(tmp_path / "t", documents, BYTES, source="here", source_sha256="abc", shard_tokens=5000)
    assert not (tmp_path / "t").exists()
    small_shards(tmp_path / "t", texts)
    assert contents(tmp_path / "t") == contents(tmp_path / "whole")


PROGRAM = """
import os, pathlib, sys
import numpy as np
from pre_process import token_files, token_splits
from pre_process.tokenizer import Tokenizer
token_splits.BATCH_BYTES = 1000
folder, dies_at, calls = pathlib.Path(sys.argv[1]), int(sys.argv[2]), []
def documents():
    calls.append(1)
    for i in range(100):
        if len(calls) == 2 - resumed and i == dies_at:
            os._exit(9)
        yield f"document {i} " * 40
resumed = (folder.parent / f".{folder.name}.partial").is_dir()
tokenizer = Tokenizer.train(["no merges"], vocab_size=258)
token_files.write_tokens(folder, documents, tokenizer, source="", source_sha256="", shard_tokens=5000)
"""


def test_killed_again_and_again_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    def run(name: str, dies_at: int) -> int:
        return subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / name), str(dies_at)]).returncode

    assert [run("t", 40), run("t", 70), run("t", 99), run("t", -1), run("whole", -1)] == [9, 9, 9, 0, 0]
    assert contents(tmp_path / "t") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t", "whole"]


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("change", ["shard", "note", "tokenizer"])
def test_what_does_not_fit_is_not_continued(tmp_path: Path, change: str) -> None:
    texts, partial = articles(100), tmp_path / ".t.partial"

    def documents() -> Iterator[str]:
        yield from texts if not partial.exists() else texts[:60]
        if partial.exists():
            raise OSError("the source went away")

    with pytest.raises(OSError, match="went away"):
        write_tokens(tmp_path / "t", documents, BYTES, source="here", source_sha256="abc", shard_tokens=5000)
    tokenizer = BYTES
    if change == "shard":
        (partial / "train-00000.npy").write_bytes(b"damaged")
    elif change == "note":
        (partial / "state.json").write_bytes(b"{}")
    else:
        tokenizer = Tokenizer.train(["ab ab"], vocab_size=259)
    small_shards(tmp_path / "t", texts, tokenizer=tokenizer)
    small_shards(tmp_path / "whole", texts, tokenizer=tokenizer)
    assert contents(tmp_path / "t") == contents(tmp_path / "whole")
