"""python -m pre_process.word2vec: what it writes and prints, one line for each fault, nothing half-written."""

import contextlib
import json
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from pre_process.token_files import write_tokens
from pre_process.token_shards import open_tokens
from pre_process.tokenizer import Tokenizer
from pre_process.word2vec import train_command, train_embeddings, train_words, word2vec_format
from pre_process.word2vec.__main__ import main
from pre_process.word2vec.files import load_vectors, load_words, save_words, token_keys
from pre_process.word2vec.word_vectors import WordVectors

WORDS = ["the", "tiger", "cat", "old", "new", "boy", "girl", "man", "woman", "naïve", "中文", "love", "sex"]


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("word2vec") / "vectors.bin"
    numbers = np.random.default_rng(0).normal(size=(len(WORDS), 8)).astype(np.float32)
    save_words(path, WordVectors(WORDS, np.zeros(len(WORDS), np.int64), numbers))
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five words in random order, so often that each occurs more than 100 times, and one that occurs four times."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    words = np.random.default_rng(0).choice(["Cat", "dog", "naïve", "don't", "中文"], size=(100, 8))
    path.write_text("\n\n".join(map(" ".join, words)) + " rare" * 4, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A folder of token ids."""
    folder = tmp_path_factory.mktemp("tokens") / "tokens"
    tokenizer = Tokenizer.train([text.read_text(encoding="utf-8")], vocab_size=280)
    parts = text.read_text(encoding="utf-8").split("\n\n")
    write_tokens(folder, lambda: iter(parts), tokenizer, source="test", source_sha256="")
    return folder


def run(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main(list(map(str, arguments)))
    return code, *capfd.readouterr()


def test_a_word_of_megabytes_does_not_fill_the_screen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("a" * 100_000 + " and " + "b" * 100_000)
    code, printed, _ = run(capfd, "train", tmp_path / "text.txt", "--min-count", "1", "--out", tmp_path / "o.bin")
    assert code == 0
    assert len(printed) < 2000
    assert f"{'a' * 39}…" in printed


def test_a_rate_below_the_last_one_is_kept(text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, error = run(capfd, "train", text, "--out", tmp_path / "o.bin", "--lr", "1e-5", "--epochs", "1")
    assert (code, error) == (0, "")


@pytest.mark.parametrize("engine", ["nanograd", "gensim"])
@pytest.mark.parametrize("suffix", [".bin", ".txt"])
def test_train(text: Path, tmp_path: Path, engine: str, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"vectors{suffix}"
    options = ["--size", "9", "--epochs", "2", "--threads", "1", "--engine", engine, "--seed", "3", "--model", "cbow"]
    code, said, complaint = run(capfd, "train", text, "--out", out, *options)
    assert (code, complaint) == (0, "")
    for line in (
        "804 words, 6 different ones",
        "5 different ones that occur 5 times or more, 99.5% of all words",
        "cat",
    ):
        assert line in said
    assert said.splitlines()[-1] == f"next: python -m pre_process.word2vec evaluate {out}"
    same = train_words([text], d_model=9, epochs=2, engine=engine, seed=3, architecture="cbow")  # type: ignore[arg-type]
    found = load_words(out)
    assert found.words == same.words
    assert set(found.words) == {"cat", "dog", "naïve", "don't", "中文"}
    np.testing.assert_array_equal(found.vectors, same.vectors)


def test_settings_reach_the_training(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    told: dict[str, object] = {}

    def spy(corpus: object, **settings: object) -> WordVectors:
        told.update(settings)
        return WordVectors(["Cat", "rare"], np.ones(2, np.int64), np.ones((2, 3), np.float32))

    monkeypatch.setattr(train_command, "train_corpus", spy)
    options = {"size": 7, "window": 4, "negative": 3, "epochs": 6, "sample": 0.5, "lr": 0.125, "seed": 11, "threads": 2}
    flags = [f"--{name}={value}" for name, value in options.items()]
    code, said, _ = run(capfd, "train", text, "--out", tmp_path / "a.bin", *flags, "--split=space", "--min-count=1")
    assert code == 0
    assert "6 different ones" in said
    del told["progress"]
    assert told == {"d_model": 7, "window": 4, "negative": 3, "epochs": 6, "sample": 0.5, "lr": 0.125, "seed": 11,
                    "threads": 2, "min_lr": 1e-4, "architecture": "skip-gram", "engine": "nanograd"}  # fmt: skip


@pytest.mark.parametrize("suffix", [".bin", ".txt", ".npy"])
def test_train_on_tokens(tokens: Path, tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    out, keys = tmp_path / f"vectors{suffix}", token_keys(Tokenizer.load(tokens))
    code, said, complaint = run(capfd, "train", tokens, "--out", out, "--size", "5", "--epochs", "1", "--threads", "1")
    assert (code, complaint) == (0, "")
    assert f"{len(keys)} different ones" in said
    assert ("next: " in said) == (suffix != ".npy")
    ids = open_tokens(tokens, "train")[:]
    same = train_embeddings(
        [ids[start : start + 1000] for start in range(0, len(ids), 1000)],
        vocab_size=len(keys), d_model=5, epochs=1, architecture="skip-gram",
    )  # fmt: skip
    np.testing.assert_array_equal(load_vectors(out, keys, d_model=5), same)
    if suffix == ".bin":
        assert load_words(out).words == keys
        assert run(capfd, "neighbours", out, keys[-1])[0] == 0


def interrupting(what: str) -> Callable[[], contextlib.AbstractContextManager[Callable[[str, int, int], None]]]:
    """A progress bar that is looked at by somebody who presses Ctrl-C."""

    @contextlib.contextmanager
    def bar() -> Iterator[Callable[[str, int, int], None]]:
        def show(now: str, done: int, total: int) -> None:
            if now == what:
                signal.raise_signal(signal.SIGINT)

        yield show

    return bar


@pytest.mark.parametrize("what", ["reading bytes", "training words", "training tokens"])
def test_ctrl_c_leaves_nothing(text: Path, tokens: Path, tmp_path: Path, what: str, monkeypatch, capfd) -> None:
    monkeypatch.setattr(train_command, "progress_bar", interrupting(what))
    source = tokens if what == "training tokens" else text
    code, said, complaint = run(capfd, "train", source, "--out", tmp_path / "a.bin", "--size", "5")
    assert (code, said, complaint) == (130, "", "interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_writing_leaves_the_old_file(text: Path, tmp_path: Path, monkeypatch, capfd) -> None:
    def rows(keys: Sequence[bytes], vectors: np.ndarray) -> Iterator[bytes]:
        yield keys[0]
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(word2vec_format, "_binary_rows", rows)
    (tmp_path / "a.bin").write_text("old")
    assert run(capfd, "train", text, "--out", tmp_path / "a.bin", "--size", "5")[0] == 130
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_words_that_would_steer_a_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """And half a character, as word2vec.c leaves it."""
    words = ["\x1b[31mred", "\udce4\udcb8", "a\x07", "[red]b[/red]"]
    save_words(tmp_path / "a.bin", WordVectors(words, np.zeros(4, np.int64), np.eye(4, dtype=np.float32)))
    code, said, _ = run(capfd, "neighbours", tmp_path / "a.bin", words[-1])
    assert code == 0
    assert "\x1b" not in said
    for word in ("�[31mred", "��", "a�", "[red]b[/red]"):
        assert word in said
    assert run(capfd, "plot", tmp_path / "a.bin", "--out", tmp_path / "a.svg")[0] == 0


def test_evaluate(vectors: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gensim")
    code, said, complaint = run(capfd, "evaluate", vectors)
    assert (code, complaint) == (0, "")
    assert "13 words, 8 dimensions" in " ".join(said.split())  # a long path breaks the line elsewhere
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
    "missing text": (["train", "no.txt", "--out", "o.bin"], "no.txt: no such file or folder"),
    "an empty text": (["train", "NOTHING", "--out", "o.bin"], "there is no word in this text"),
    "a binary file": (["train", "BINARY", "--out", "o.bin"], "binary.txt: not a text file (NUL byte at offset 1)"),
    "not UTF-8": (["train", "LATIN", "--out", "o.bin"], "latin.txt: not UTF-8 text (byte 0xe9 at offset 3)"),
    "one word": (["train", "ONE", "--out", "o.bin"], "only 'word' (6 times)"),
    "rare words": (["train", "WORDS", "--out", "o.bin", "--min-count", "999"], "no word occurs at least 999 times"),
    "no size": (["train", "WORDS", "--out", "o.bin", "--size", "0"], "--size must be at least 1, not 0"),
    "no window": (["train", "WORDS", "--out", "o.bin", "--window", "0"], "window must be at least 1, not 0"),
    "lr is no number": (["train", "WORDS", "--out", "o.bin", "--lr", "nan"], "lr must be a number above 0, not nan"),
    "lr is huge": (["train", "WORDS", "--out", "o.bin", "--lr", "1e30"], "the vectors grew beyond all bounds"),
    "negative sample": (["train", "WORDS", "--out", "o.bin", "--sample", "-1"], "sample must be at least 0"),
    "words as a matrix": (["train", "no.txt", "--out", "o.npy"], "o.npy: the name must end with .bin or .txt"),
    "nowhere to write": (["train", "no.txt", "--out", "no/o.bin"], "no/o.bin: No such file or directory"),
    "out is a folder": (["train", "no.txt", "--out", "FOLDER"], "folder.bin is a folder, not a file to write"),
    "tokens and text": (["train", "TOKENS", "WORDS", "--out", "o.bin"], "holds token ids: give it alone"),
    "tokens are split": (["train", "TOKENS", "--split", "space", "--out", "o.bin"], "holds token ids: give it alone"),
    "broken tokens": (["train", "BROKEN", "--out", "o.npy"], "manifest.json can't be read"),
    "missing": (["evaluate", "nowhere.bin"], "nowhere.bin can't be read (No such file or directory)"),
    "a folder": (["neighbours", "FOLDER", "a"], "can't be read (Is a directory)"),
    "a matrix": (["neighbours", "matrix.npy", "a"], "matrix.npy: a .npy file has no place for words"),
    "another suffix": (["evaluate", "vectors.vec"], "vectors.vec: word vectors are kept in .npy, .bin, .txt files"),
    "cut": (["evaluate", "CUT"], "cut.bin is cut short"),
    "no vectors": (["evaluate", "TEXT"], "text.txt is no file of word vectors"),
    "no English word": (["evaluate", "GERMAN"], "none of the 2 words is in WordSim-353, SimLex-999 or the analogies"),
    "unknown word": (["neighbours", "VECTORS", "dog"], "no vector for 'dog' among 13 words"),
    "upper case": (["analogy", "VECTORS", "man", "woman", "Boy"], "no vector for 'Boy' among 13 words; 'boy' has one"),
    "a map of one word": (["plot", "VECTORS", "--words", "cat", "--out", "m.png"], "a map of one word shows nothing"),
    "no word": (["plot", "VECTORS", "--top", "0", "--out", "m.png"], "--top must be at least 1"),
    "all skipped": (["plot", "VECTORS", "--skip", "13", "--out", "m.png"], "--skip 13 leaves none of the 13 words"),
    "few for t-SNE": (
        ["plot", "VECTORS", "--top", "3", "--method", "t-sne", "--out", "m.png"],
        "t-SNE takes 4 to 5,000 points, not 3",
    ),
    "a picture of another kind": (["plot", "VECTORS", "--out", "m.jpg"], "m.jpg: the name must end with .png or .svg"),
    "no such folder": (["plot", "VECTORS", "--out", "no/m.png"], "no/m.png: No such file or directory"),
}


@pytest.mark.parametrize("fault", list(BAD))
def test_bad_input_is_one_line(
    tmp_path: Path, vectors: Path, text: Path, tokens: Path, fault: str, monkeypatch, capfd
) -> None:
    german = WordVectors(["haus", "straße"], np.zeros(2, np.int64), np.ones((2, 3), np.float32))
    save_words(tmp_path / "german.bin", german)
    (tmp_path / "cut.bin").write_bytes(vectors.read_bytes()[:-1])
    (tmp_path / "text.txt").write_text("a text of words\n")
    for name, content in {"nothing": b"", "binary": b"a\0b", "latin": b"caf\xe9 ", "one": b"word " * 6}.items():
        (tmp_path / f"{name}.txt").write_bytes(content)
    (tmp_path / "folder.bin").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    np.save(tmp_path / "matrix.npy", np.ones((2, 2)))
    places = {"GERMAN": "german.bin", "CUT": "cut.bin", "TEXT": "text.txt", "FOLDER": "folder.bin", "VECTORS": vectors}
    places |= {"NOTHING": "nothing.txt", "BINARY": "binary.txt", "LATIN": "latin.txt", "ONE": "one.txt"}
    places |= {"TOKENS": tokens, "WORDS": text, "BROKEN": "broken"}
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    arguments, message = BAD[fault]
    code, said, complaint = run(capfd, *(places.get(argument, argument) for argument in arguments))
    assert (code, said) == (2, "")
    assert complaint.startswith("error: ")
    assert complaint.count("\n") == 1
    assert message in complaint
    assert sorted(tmp_path.rglob("*")) == before


def test_wrong_arguments_exit_with_2(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        [],
        ["train", "a.txt"],
        ["evaluate"],
        ["neighbours", "a.bin"],
        ["plot", "a.bin"],
        ["analogy", "a.bin", "b", "c"],
    ):
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


def test_a_full_disk_leaves_the_old_vectors(text: Path, tmp_path: Path, little_disk: None, capsys) -> None:
    path = tmp_path / "a.bin"
    path.write_text("old")
    assert main(["train", str(text), "--out", str(path), "--engine", "gensim"]) == 2
    assert capsys.readouterr().err == f"error: {path}: File too large\n"
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_a_full_disk_leaves_the_old_map(vectors: Path, tmp_path: Path, little_disk: None, capsys) -> None:
    path = tmp_path / "map.png"
    path.write_text("old")
    assert main(["plot", str(vectors), "--out", str(path)]) == 2
    assert capsys.readouterr().err == f"error: {path}: File too large\n"
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]
