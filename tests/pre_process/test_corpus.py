"""Reading text: the excerpt reads like an encyclopaedia, sources say in one line what is wrong with them."""

import bz2
import json
import os
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pre_process.corpus import CorpusError, describe, documents, fingerprint, wikipedia
from pre_process.corpus.templates import template_text
from pre_process.corpus.wikitext import plain_text

LONG = "A sentence that is long enough to count as prose."


# The cleaner, one piece of mark-up at a time. Each is put into a sentence, as in an article.
MARKUP = {
    "Lincoln, '''who''' was ''born'' in [[Kentucky]].": "Lincoln, who was born in Kentucky.",
    "Abraham was born in [[Kentucky (state)|Kentucky]], USA.": "Abraham was born in Kentucky, USA.",
    "[[File:a.jpg|thumb|A [[nested|link]] in a [http://x caption]]]It stands above the text of an article.": (
        "It stands above the text of an article."
    ),
    "This one has notes<ref name=a>{{cite book|title=B}}</ref> of<ref name=b /> both kinds.": (
        "This one has notes of both kinds."
    ),
    "Albedo ({{IPAc-en|æ|l}}; from Latin ''albedo'') is whiteness.": "Albedo (from Latin albedo) is whiteness.",
    "An empty bracket ({{IPA-xx|a}}) goes with its space.": "An empty bracket goes with its space.",
    "It is {{convert|1300|mi|km}} to {{convert|5|to|10|km2|abbr=on}} large.": "It is 1300 mi to 5 to 10 km² large.",
    "The word {{lang|grc|ἀρχός}} is Greek, {{lang-fr|mot}} French.": "The word ἀρχός is Greek, mot French.",
    "{{As of|2014}}, one in {{frac|3}} has {{nihongo|bayonet|銃剣|jūken}} skills.": (
        "As of 2014, one in 1/3 has bayonet (jūken) skills."
    ),
    "Water is H<sub>2</sub>O, or 10<sup>6</sup> drops, and more.": "Water is H2O, or 10⁶ drops, and more.",
    "The value <math>{D}</math> is a simple formula to read.": "The value D is a simple formula to read.",
    "Entities &amp;nbsp;and&nbsp;&ndash; spaces &lt;b are resolved.": "Entities and – spaces <b are resolved.",
    "{{Infobox|a={{b|c}}|d=\n{|\n|x\n|}\n}}The box before this text is gone.": "The box before this text is gone.",
    "This hard-wrapped line is long\nand goes on in the next one.": (
        "This hard-wrapped line is long and goes on in the next one."
    ),
    "* A list item that is a whole sentence stays.": "A list item that is a whole sentence stays.",
    "A comment<!-- [[x\n --> is not for the readers.": "A comment is not for the readers.",
}


@pytest.mark.parametrize(("wikitext", "text"), MARKUP.items())
def test_markup(wikitext: str, text: str) -> None:
    assert plain_text(wikitext) == text


@pytest.mark.parametrize(
    "wikitext",
    [
        "* Governors Awards",  # a fragment
        "the open back vowel of a list of sounds.",  # the middle of a sentence
        r"It is given by <math>\frac{a}{b}</math> and by nothing else.",  # nothing to read without the formula
        "{| class=wikitable\n| A cell that ends like a sentence does.\n|}",
        "{{unclosed template that swallows the rest of the line.",
        "[[Category:A category that ends like a sentence.]]",
        "==References==\n" + LONG,
        "==See also==\n===Below it===\n" + LONG,
        "== Heading without text ==",
        "The kinds of the thing in question are the following:\n* one\n* two",
    ],
)
def test_what_is_no_prose_goes(wikitext: str) -> None:
    assert plain_text(wikitext) == ""


def test_headings_stay_where_prose_is_below_them() -> None:
    wikitext = f"{LONG}\n== One ==\n=== Empty ===\n* x\n=== Full ===\n{LONG}\n==Notes==\n{LONG}\n==Two==\n{LONG}"
    assert plain_text(wikitext).split("\n\n") == [LONG, "One", "Full", LONG, "Two", LONG]


def test_what_announces_nothing_goes() -> None:
    assert plain_text(f"== One ==\n=== Below one ===\n* x\n== Two ==\n{LONG}") == f"Two\n\n{LONG}"
    lead_in = "The kinds of it are the following:"
    assert plain_text(f"{lead_in}\n* one\n* two\n\n{LONG}") == LONG
    assert plain_text(f"{lead_in}\n* {LONG}") == f"{lead_in}\n\n{LONG}"


@given(st.text(st.sampled_from("[]{}|'=<>ref/ab.:*#!&;\n math"), max_size=200))
def test_no_markup_survives_and_nothing_breaks_the_cleaner(wikitext: str) -> None:
    assert not re.search(r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}|\ufffc", plain_text(wikitext))


@given(st.lists(st.text(st.sampled_from("ab1=| {"), max_size=8)))
def test_templates_take_any_arguments(arguments: list[str]) -> None:
    for name in ("convert", "frac", "lang", "nihongo", "as of", "chem", "e", "small", "nothing known", "transl"):
        assert isinstance(template_text("|".join([name, *arguments])), str)


def test_the_excerpt_reads_like_an_encyclopaedia() -> None:
    articles = list(documents(None))
    text = "\n".join(articles)
    assert 90 <= len(articles) <= 106
    assert 2_500_000 < len(text) < 3_000_000
    residue = (
        r"thumb\||\[\[|\]\]|\{\{|\}\}|\{\||\|\}|''|&[a-z]+;|<ref|File:|Category:|^=+.*=+$|\(\s*[,;]?\s*\)|https?:|  "
    )
    assert re.findall(residue, text, re.MULTILINE) == []
    titles = [article.split("\n\n")[0] for article in articles]
    assert "Albedo" in titles
    assert len(set(titles)) == len(titles)
    assert not [title for title in titles if "disambiguation" in title or title in ("AccessibleComputing", "Ada")]
    blocks = [block for article in articles for block in article.split("\n\n")[1:]]
    assert all(block == block.strip() and "\n" not in block for block in blocks)
    assert max(blocks.count(heading) for heading in ("References", "See also", "External links", "Notes")) == 0
    albedo = articles[titles.index("Albedo")]
    assert albedo.startswith('Albedo\n\nAlbedo or reflection coefficient, derived from Latin albedo "whiteness"')


def test_a_file_is_one_document_without_byte_order_mark_and_carriage_returns(tmp_path: Path) -> None:
    path = tmp_path / "a.TXT"
    path.write_bytes("\ufeffone\r\ntwo é\rthree\n".encode())
    assert list(documents(path)) == ["one\ntwo é\nthree\n"]
    assert list(documents(str(path))) == ["one\ntwo é\nthree\n"]


def test_a_folder_is_read_in_order_without_hidden_foreign_and_blank_files(tmp_path: Path) -> None:
    texts = {"b.md": "b", "a/z.txt": "z", "a/.hidden.txt": "no", ".git/x.txt": "no", "c.pdf": "no", "blank.txt": " \n"}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(documents(tmp_path)) == ["z", "b"]


@given(texts=st.lists(st.text(st.characters(codec="utf-8")), min_size=1))
def test_jsonl_gives_back_every_text(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    lines = [json.dumps({"id": i, "text": text, "more": [{}]}) for i, text in enumerate(["first", *texts])]
    path.write_bytes("\r\n\r\n".join(lines).encode("utf-8-sig"))
    assert list(documents(path)) == ["first", *(text for text in texts if text.strip())]


def test_jsonl_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    line = json.dumps({"text": "x" * 10_000}).encode() + b"\n"
    path.write_bytes(line * 2_000)  # 20 MB
    tracemalloc.start()
    total = sum(len(text) for text in documents(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 20_000_000
    assert peak < 1_000_000


Writer = Callable[[Path], Path]


def _file(name: str, content: bytes) -> Writer:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: folder / "none.txt", r"none\.txt: no such file or folder"),
        (lambda folder: folder, r"no \.txt, .* file in this folder"),
        (_file("a.pdf", b"x"), r"a\.pdf: can't read this kind of file; give \.txt"),
        (_file("a.txt", b""), r"a\.txt: there is no text in it"),
        (_file("a.txt", b" \r\n"), r"a\.txt: there is no text in it"),
        (_file("a.jsonl", b"\n\n"), r"a\.jsonl: there is no text in it"),
        (_file("a.txt", b"\xef\xbb\xbfab\0c"), r"a\.txt: not a text file \(NUL byte at offset 5\)"),
        (_file("a.md", b"\xef\xbb\xbfab\xff"), r"a\.md: not UTF-8 text \(byte 0xff at offset 5\)"),
        (_file("a.jsonl", b'{"text": "a"}\n\n{"text": 3}'), r"a\.jsonl, line 3: not an object with a \"text\" string"),
        (_file("a.jsonl", b'{"text": "a"}\n["text"]'), r"line 2"),
        (_file("a.jsonl", b'{"txt": "a"}'), r"line 1"),
        (_file("a.jsonl", b'{"text": "a"'), r"line 1"),
        (_file("a.jsonl", b'{"text": "\xff"}'), r"line 1"),
        (_file("a.jsonl", b"[" * 100_000), r"line 1"),
    ],
)
def test_a_bad_source_is_named_in_one_line(write: Writer, message: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=message) as raised:
        list(documents(write(tmp_path)))
    assert "\n" not in str(raised.value)


def test_a_missing_source_is_refused_before_the_first_document() -> None:
    with pytest.raises(CorpusError):
        documents("/nowhere")


def test_fingerprint_follows_names_and_content_but_not_the_place(tmp_path: Path) -> None:
    def write(place: str, name: str, text: str) -> Path:
        (tmp_path / place).mkdir()
        (tmp_path / place / name).write_text(text)
        return tmp_path / place

    first = fingerprint(write("one", "a.txt", "text"))
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert fingerprint(write("two", "a.txt", "text")) == first
    assert fingerprint(write("three", "a.txt", "Text")) != first
    assert fingerprint(write("four", "b.txt", "text")) != first
    assert fingerprint(tmp_path / "one" / "a.txt") == fingerprint(tmp_path / "two" / "a.txt")


def test_fingerprint_of_the_excerpt_follows_the_cleaning_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(None)
    assert fingerprint(None) == before
    monkeypatch.setattr("pre_process.corpus.CLEANING_VERSION", -1)
    assert fingerprint(None) != before


def test_describe() -> None:
    assert describe("books/") == "books/"
    assert re.fullmatch(r"English Wikipedia excerpt \(gensim [\d.]+\)", describe(None))


def test_only_articles_of_the_dump_are_read(tmp_path: Path) -> None:
    def page(title: str, namespace: int, more: str = "") -> str:
        return (
            f"<page><title>{title}</title><ns>{namespace}</ns>{more}<revision><text>{title}!</text></revision></page>"
        )

    pages = page("Article", 0) + page("Talk", 1) + page("Moved", 0, "<redirect title='Article' />") + page("Other", 0)
    dump = f"<mediawiki xmlns='http://www.mediawiki.org/xml/export-0.10/'>{pages}</mediawiki>"
    (tmp_path / "dump.bz2").write_bytes(bz2.compress(dump.encode()))
    assert list(wikipedia._pages(tmp_path / "dump.bz2")) == [("Article", "Article!"), ("Other", "Other!")]


@pytest.mark.parametrize("broken", [b"not bz2", None])
def test_a_gensim_without_a_readable_dump(
    broken: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dump.bz2"
    if broken is None:
        path.write_bytes(wikipedia.dump_path().read_bytes()[:50_000])
    else:
        path.write_bytes(broken)
    with pytest.raises(CorpusError, match=r"dump\.bz2 can't be read .*reinstall gensim"):
        list(wikipedia._pages(path))
    monkeypatch.setattr(wikipedia, "DUMP_NAME", "missing.bz2")
    with pytest.raises(CorpusError, match=r"doesn't carry missing\.bz2"):
        wikipedia.dump_path()


@pytest.mark.skipif("NANOGRAD_DATA" not in os.environ, reason="NANOGRAD_DATA names no folder of real text")
def test_a_folder_of_whole_books() -> None:
    books = Path(os.environ["NANOGRAD_DATA"]) / "books"
    texts = list(documents(books))
    assert len(texts) == len(list(books.glob("*.md")))
    assert all(text.startswith("# Title") and len(text) > 200_000 for text in texts)
