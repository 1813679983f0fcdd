"""Each data set: its files → documents, by its own command, from local copies; broken ones end in one line."""

import hashlib
import json
import os
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from data import fineweb_edu, gutenberg, limarp, mix, sales_textbook, tiny_stories, wikitext
from pre_process.corpus import documents

real = pytest.mark.skipif("NANOGRAD_DATA" not in os.environ, reason="NANOGRAD_DATA names no folder of real text")
Main = Callable[[Sequence[str]], int]


def built(main: Main, tmp_path: Path, *arguments: object) -> list[dict[str, str]]:
    """What the command wrote."""
    out = tmp_path / "out.jsonl"
    assert main([*map(str, arguments), "--out", str(out)]) == 0
    return [json.loads(line) for line in out.read_bytes().splitlines()]


def refused(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The line on standard error; nothing was written."""
    before = sorted(tmp_path.iterdir())
    assert main([*map(str, arguments), "--out", str(tmp_path / "out.jsonl")]) == 2
    assert sorted(tmp_path.iterdir()) == before
    line = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note:")]
    assert len(line) == 1, line
    assert line[0].startswith("error: ")
    return line[0]


def test_tiny_stories_stand_between_marks(tmp_path: Path) -> None:
    file = tmp_path / "stories.txt"
    file.write_bytes(b"Once.\n\nThere was.\r\n<|endoftext|>\nTwo\n<|endoftext|><|endoftext|>\n \nThree")
    assert built(tiny_stories.main, tmp_path, "--from", file) == [
        {"text": "Once.\n\nThere was."},
        {"text": "Two"},
        {"text": "Three"},
    ]
    assert built(tiny_stories.main, tmp_path, "--from", file, "--limit", 2)[-1] == {"text": "Two"}


def test_tiny_stories_names_the_line_that_is_not_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "stories.txt"
    file.write_bytes(b"good\nb\xffd\n")
    assert "stories.txt, line 2: not UTF-8 text (byte 0xff)" in refused(
        tiny_stories.main, tmp_path, capsys, "--from", file
    )


WIKI = """ 
 = Gold dollar = 

 The gold dollar ( 1849 @-@ 1889 ) cost $ 1 @,@ 000 @.@ 5 , it 's said . 

 = = Early = = 

 " I didn 't , " he wrote , " want it ! " 
 a = b = c 

 = Second = 

 Text . 
"""  # noqa: W291  as the files have it


def test_wikitext_puts_back_what_the_spaces_were_made_from(tmp_path: Path) -> None:
    file = tmp_path / "wiki.train.raw"
    file.write_text(WIKI, encoding="utf-8")
    first, second = built(wikitext.main, tmp_path, "--from", file)
    assert first["title"] == "Gold dollar"
    assert first["text"].split("\n\n") == [
        "Gold dollar",
        "The gold dollar (1849-1889) cost $1,000.5, it's said.",
        "Early",
        '"I didn\'t," he wrote, "want it!"',
        "a = b = c",
    ]
    assert second == {"text": "Second\n\nText.", "title": "Second"}


def test_wikitext_reads_its_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "wikitext-2-raw-v1.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("wikitext-2-raw/wiki.test.raw", WIKI)
    assert len(built(wikitext.main, tmp_path, "--from", archive, "--split", "2-test")) == 2
    (tmp_path / "out.jsonl").unlink()
    assert "no wiki.train.raw" in refused(wikitext.main, tmp_path, capsys, "--from", archive)
    content = bytearray(archive.read_bytes())
    content[60:70] = b"0123456789"
    archive.write_bytes(content)
    assert "damaged archive" in refused(wikitext.main, tmp_path, capsys, "--from", archive, "--split", "2-test")


@real
def test_real_wikitext(tmp_path: Path) -> None:
    file = Path(os.environ["NANOGRAD_DATA"]) / "wikitext-2" / "valid.txt"
    articles = built(wikitext.main, tmp_path, "--from", file)
    assert len(articles) == 60
    assert articles[0]["title"] == "Homarus gammarus"
    assert not any(mark in article["text"] for article in articles for mark in (" @-@ ", " @,@ ", " ,", " ."))


def test_gutenberg_takes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    books = tmp_path / "books"
    books.mkdir()
    (books / "b.md").write_text("Second e\u0301\x07.\n", encoding="utf-8")
    start, end = (f"*** {mark} OF THE PROJECT GUTENBERG EBOOK A ***" for mark in ("START", "END"))
    (books / "a.txt").write_text(f"licence\n{start}\n\nFirst.\n\n{end}\nlicence\n", encoding="utf-8")
    assert built(gutenberg.main, tmp_path, "--from", books) == [
        {"text": "First.\n", "title": "a"},
        {"text": "Second é.\n", "title": "b"},
    ]
    (tmp_path / "out.jsonl").unlink()
    (books / "c.txt").write_text(f"{start}\n\n{end}\n", encoding="utf-8")
    assert "c.txt: nothing is left of it" in refused(gutenberg.main, tmp_path, capsys, "--from", books)


def test_limarp_is_talks_and_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "talks.json"
    turns = [{"from": "system", "value": "A."}, {"from": "human", "value": " Hi \n"}, {"from": "gpt", "value": "Ho"}]
    file.write_text(json.dumps([{"id": 7, "conversations": turns}, {"id": "x", "conversations": []}]))
    assert built(limarp.main, tmp_path, "--from", file) == [{"text": "A.\n\nUser: Hi\n\nAssistant: Ho", "title": "7"}]
    assert "adult role-play" in capsys.readouterr().err
    (tmp_path / "out.jsonl").unlink()
    file.write_text('[{"id": 1}]')
    assert "talks.json: not a list of" in refused(limarp.main, tmp_path, capsys, "--from", file)


def test_sales_textbook_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sales.txt"
    file.write_text("Chapter 1: Sell.\n")
    assert built(sales_textbook.main, tmp_path, "--from", file) == [{"text": "Chapter 1: Sell.\n"}]
    (tmp_path / "out.jsonl").unlink()
    missing = tmp_path / "no.txt"
    assert "no.txt: no such file" in refused(sales_textbook.main, tmp_path, capsys, "--from", missing)
    file.write_text(" \n")
    assert "there is no text in it" in refused(sales_textbook.main, tmp_path, capsys, "--from", file)


def test_fineweb_edu_reads_parquet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs pip install 'nanograd[hub]'")
    from pyarrow import parquet

    file = tmp_path / "pages.parquet"
    parquet.write_table(arrow.table({"id": ["a", "b", "c"], "text": ["One.", "  ", "Two."]}), file)
    assert built(fineweb_edu.main, tmp_path, "--from", file) == [{"text": "One."}, {"text": "Two."}]
    (tmp_path / "out.jsonl").unlink()
    parquet.write_table(arrow.table({"id": ["a"]}), file)
    assert 'no Parquet file with a column "text"' in refused(fineweb_edu.main, tmp_path, capsys, "--from", file)
    file.write_bytes(b"PAR1 and no more")
    assert 'no Parquet file with a column "text"' in refused(fineweb_edu.main, tmp_path, capsys, "--from", file)


def test_a_mix_is_the_same_every_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, n in (("a", 400), ("b", 50)):
        lines = (json.dumps({"text": f"{name} {i}"}) for i in range(n))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    recipe = tmp_path / "recipe.toml"
    sources = '[[source]]\npath = "a.jsonl"\nshare = 0.25\n[[source]]\npath = "b.jsonl"\n'
    recipe.write_text(sources)
    texts = [record["text"] for record in built(mix.main, tmp_path, recipe)]
    assert sum(text.startswith("b") for text in texts) == 50
    assert 70 <= sum(text.startswith("a") for text in texts) <= 130
    sha256 = hashlib.sha256((tmp_path / "out.jsonl").read_bytes()).hexdigest()
    recipe.write_text(f'sha256 = "{sha256}"\n{sources}')
    assert [record["text"] for record in built(mix.main, tmp_path, recipe)] == texts
    (tmp_path / "out.jsonl").unlink()
    recipe.write_text(f'sha256 = "{sha256[::-1]}"\n{sources}')
    assert "the result has sha256" in refused(mix.main, tmp_path, capsys, recipe)
    recipe.write_text(sources + f'sha256 = "{sha256}"\n')
    assert "the recipe was made for" in refused(mix.main, tmp_path, capsys, recipe)
    recipe.write_text(sources.replace("share", "shade"))
    assert "shade" in refused(mix.main, tmp_path, capsys, recipe)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "stories.txt"
    file.write_text("A story of some length. <|endoftext|>\n" * 5000)
    limit = (50_000, 50_000)
    command = [sys.executable, "-m", "data.tiny_stories", "--from", file, "--out", tmp_path / "out.jsonl"]
    done = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["stories.txt"]


@pytest.mark.slow
def test_a_gigabyte_of_jsonl_takes_no_memory(tmp_path: Path) -> None:
    line = json.dumps({"text": "word " * 2000}).encode() + b"\n"
    with (tmp_path / "big.jsonl").open("wb") as file:
        for _ in range(1_000_000_000 // len(line)):
            file.write(line)
    program = (  # VmHWM, for getrusage hands the parent's peak through exec
        "import re, sys; from pathlib import Path; from pre_process.corpus import documents;"
        "n = sum(1 for _ in documents(sys.argv[1]));"
        "print(n, re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "big.jsonl")]
    n, peak = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert n == 1_000_000_000 // len(line)
    assert peak < 200_000, f"{peak} kB"


def test_what_was_written_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "stories.txt"
    file.write_text("One\u2028.\n<|endoftext|>\nTwo")
    built(tiny_stories.main, tmp_path, "--from", file)
    assert list(documents(tmp_path / "out.jsonl")) == ["One\u2028.", "Two"]
