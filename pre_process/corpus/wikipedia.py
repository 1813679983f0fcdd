"""The embedded default corpus: about a hundred English Wikipedia articles of 2016 that the gensim package carries."""

import bz2
import functools
import importlib.metadata
import importlib.util
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from pre_process.corpus.errors import CorpusError
from pre_process.corpus.wikitext import plain_text

DUMP_NAME = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
CLEANING_VERSION = 1  # raise it when the same dump gives other text: caches are keyed by it
MIN_CHARACTERS = 300  # what is left of a page of links
_DISAMBIGUATION = re.compile(r"\{\{\s*(?:disambig|dab\b|geodis|hndis|[^{}|]*disambiguation)", re.IGNORECASE)


def dump_path() -> Path:
    """Where the installed gensim keeps the dump; found without importing gensim, which takes a second."""
    package = importlib.util.find_spec("gensim")
    path = Path(package.origin).parent / "test" / "test_data" / DUMP_NAME if package and package.origin else None
    if path is None or not path.is_file():
        raise CorpusError(
            f"the installed gensim doesn't carry {DUMP_NAME}: pip install gensim, or name a text by --data"
        )
    return path


def describe_dump() -> str:
    """The name under which manifests and pages know this corpus."""
    return f"English Wikipedia excerpt (gensim {importlib.metadata.version('gensim')})"


@functools.cache
def articles() -> tuple[str, ...]:
    """All articles as plain text, the title on the first line; about 1.5 s the first time, 2.7 MB kept."""
    pages = _pages(dump_path())
    cleaned = ((title, plain_text(text)) for title, text in pages if not _DISAMBIGUATION.search(text))
    return tuple(f"{title}\n\n{text}" for title, text in cleaned if len(text) >= MIN_CHARACTERS)


def _pages(path: Path) -> Iterator[tuple[str, str]]:
    """(title, wikitext) of every article in the dump: namespace 0, no redirects."""
    try:
        with bz2.open(path) as file:
            for _, page in ET.iterparse(file):
                if page.tag.endswith("}page"):
                    if page.findtext("{*}ns") == "0" and page.find("{*}redirect") is None:
                        yield page.findtext("{*}title") or "", page.findtext("{*}revision/{*}text") or ""
                    page.clear()  # the tree would otherwise hold the whole dump
    except (OSError, EOFError, ET.ParseError) as error:
        raise CorpusError(f"{path} can't be read ({error}): reinstall gensim") from error
