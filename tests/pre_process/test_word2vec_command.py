"""python -m pre_process.word2vec: what it writes and prints, one line for each fault, nothing half-written."""

import json
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pre_process.word2vec.__main__ import main
from pre_process.word2vec.files import save_words
from pre_process.word2vec.word_vectors import WordVectors

WORDS = ["the", "tiger", "cat", "old", "new", "boy", "girl", "man", "woman", "naïve", "中文", "love", "sex"]


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("word2vec") / "vectors.bin"
    numbers = np.random.default_rng(0).normal(size=(len(WORDS), 8)).astype(np.float32)
    save_words(path, WordVectors(WORDS, np.zeros(len(WORDS), np.int64), numbers))
    return path


def run(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main(list(map(str, arguments)))
    return code, *capfd.readouterr()


def test_evaluate(vectors: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gensim")
    code, said, complaint = run(capfd, "evaluate", vectors)
    assert (code, complaint) == (0, "")
    assert "13 words, 8 dimensions" in said
    for line in ("4 of 353 pairs", "98.9%", "2 of 999 pairs", "2 of 19,544 questions", "family "):
        assert line in said
    code, said, _ = run(capfd, "evaluate", vectors, "--json")
    assert (code, said.count("\n")) == (0, 1)
    record = json.loads(said)
    assert (record["file"], record["words"], record["d"]) == (str(vectors), 13, 8)
    assert record["WordSim-353"]["used"] == 4
    assert [kind["asked"] for kind in record["analogies"]["sections"] if kind["name"] == "family"] == [2]


def test_neighbours_and_analogies(vectors: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capfd, "neighbours", vectors, "tiger", "中文", "--n", "3")
    assert code == 0
    assert said.split()[:2] == ["tiger", "中文"]
    assert len(said.strip().splitlines()) == 5  # words, a line, three neighbours
    code, said, _ = run(capfd, "analogy", vectors, "man", "woman", "boy")
    assert code == 0
    assert "man : woman = boy : …" in said


@pytest.mark.parametrize(
    ("options", "n"),
    [
        ([], 13),
        (["--method", "t-sne"], 13),
        (["--words", "tiger", "cat", "cat"], 2),
        (["--skip", "1", "--top", "5"], 5),
    ],
)
def test_plot(vectors: Path, tmp_path: Path, options: list[str], n: int, capfd: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capfd, "plot", vectors, "--out", tmp_path / "map.png", *options)
    assert (code, said) == (0, f"{n} words: {tmp_path / 'map.png'}\n")
    assert (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"


BAD = {
    "missing": (["evaluate", "nowhere.bin"], "nowhere.bin can't be read (No such file or directory)"),
    "a folder": (["neighbours", "FOLDER", "a"], "can't be read (Is a directory)"),
    "a matrix": (["neighbours", "matrix.npy", "a"], "matrix.npy: a .npy file has no place for words"),
    "another suffix": (["evaluate", "vectors.vec"], "vectors.vec: word vectors are kept in .npy, .bin, .txt files"),
    "cut": (["evaluate", "CUT"], "cut.bin is cut short"),
    "no vectors": (["evaluate", "TEXT"], "text.txt is no file of word vectors"),
    "no English word": (["evaluate", "GERMAN"], "none of the 2 words is in WordSim-353, SimLex-999 or the analogies"),
    "unknown word": (["neighbours", "VECTORS", "dog"], "no vector for 'dog' among 13 words"),
    "upper case": (["analogy", "VECTORS", "man", "woman", "Boy"], "no vector for 'Boy' among 13 words; 'boy' has one"),
    "one word": (["plot", "VECTORS", "--words", "cat", "--out", "m.png"], "a map of one word shows nothing"),
    "no word": (["plot", "VECTORS", "--top", "0", "--out", "m.png"], "--top must be at least 1"),
    "all skipped": (["plot", "VECTORS", "--skip", "13", "--out", "m.png"], "--skip 13 leaves none of the 13 words"),
    "few for t-SNE": (
        ["plot", "VECTORS", "--top", "3", "--method", "t-sne", "--out", "m.png"],
        "t-SNE takes 4 to 5,000 points, not 3",
    ),
    "a picture of another kind": (["plot", "VECTORS", "--out", "m.jpg"], "m.jpg: the name must end with .png or .svg"),
    "no such folder": (["plot", "VECTORS", "--out", "no/m.png"], "no/m.png: No such file or directory"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_input_is_one_line(tmp_path: Path, vectors: Path, name: str, monkeypatch, capfd) -> None:
    german = WordVectors(["haus", "straße"], np.zeros(2, np.int64), np.ones((2, 3), np.float32))
    save_words(tmp_path / "german.bin", german)
    (tmp_path / "cut.bin").write_bytes(vectors.read_bytes()[:-1])
    (tmp_path / "text.txt").write_text("a text of words\n")
    (tmp_path / "folder.bin").mkdir()
    np.save(tmp_path / "matrix.npy", np.ones((2, 2)))
    places = {"GERMAN": "german.bin", "CUT": "cut.bin", "TEXT": "text.txt", "FOLDER": "folder.bin", "VECTORS": vectors}
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    arguments, message = BAD[name]
    code, said, complaint = run(capfd, *(places.get(argument, argument) for argument in arguments))
    assert (code, said) == (2, "")
    assert complaint.startswith("error: ")
    assert complaint.count("\n") == 1
    assert message in complaint
    assert sorted(tmp_path.rglob("*")) == before


def test_wrong_arguments_exit_with_2(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["evaluate"], ["neighbours", "a.bin"], ["plot", "a.bin"], ["analogy", "a.bin", "b", "c"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert "Traceback" not in capfd.readouterr().err


@pytest.fixture
def little_disk() -> Iterator[None]:
    """No file may grow beyond 300 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_leaves_the_old_map(vectors: Path, tmp_path: Path, little_disk: None, capsys) -> None:
    path = tmp_path / "map.png"
    path.write_text("old")
    assert main(["plot", str(vectors), "--out", str(path)]) == 2
    assert capsys.readouterr().err == f"error: {path}: File too large\n"
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]
