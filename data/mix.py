"""A corpus by recipe: shares of several jsonl files, the same documents every time. Documents as jsonl.

python -m data.mix RECIPE.toml --out documents.jsonl

sha256 = "…"                    # of the result: another one is refused (optional)
[[source]]
path = "stories.jsonl"          # beside the recipe, or absolute
share = 0.05                    # of its documents, chosen by a hash of their text
sha256 = "…"                    # of the file: another one is refused (optional)
"""

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from data.command import Document, write_documents
from pre_process.corpus import documents
from pre_process.files import sha256_file
from pre_process.terminal import run_command


class Source(msgspec.Struct, forbid_unknown_fields=True):
    """A file and how much of it."""

    path: str
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    sha256: str | None = None


class Recipe(msgspec.Struct, forbid_unknown_fields=True):
    """A recipe file."""

    source: Annotated[list[Source], msgspec.Meta(min_length=1)]
    sha256: str | None = None


def read_recipe(path: Path) -> Recipe:
    """The recipe, its paths made absolute, its files checked. Raises ValueError or OSError, one line."""
    try:
        recipe = msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    for source in recipe.source:
        source.path = str(path.parent / source.path)
        if source.sha256 is not None and (found := sha256_file(Path(source.path))) != source.sha256:
            raise ValueError(f"{source.path} has sha256 {found}, the recipe was made for {source.sha256}")
    return recipe


def chosen(source: Source) -> Iterator[Document]:
    """Whether a document is among the share depends on its text alone: not on its place, nor on the others."""
    limit = source.share * 2**64
    for text in documents(source.path):
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
        if int.from_bytes(digest[:8]) < limit:
            yield Document(text)


def mix(recipe: Recipe, out: Path) -> dict[str, str]:
    """Write the corpus; returns the counts. Raises ValueError, and writes nothing, if it isn't what the recipe says."""
    texts = (document for source in recipe.source for document in chosen(source))
    return write_documents(out, texts, "mix", sha256=recipe.sha256)


def main(argv: Sequence[str] | None = None) -> int:
    """Mix; returns the exit code, see `run_command`."""
    parser = argparse.ArgumentParser(
        prog="python -m data.mix", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.jsonl")
    options = parser.parse_args(argv)
    return run_command(lambda: _mix(options.recipe, options.out))


def _mix(recipe: Path, out: Path) -> None:
    for name, value in mix(read_recipe(recipe), out).items():
        print(f"{name:11} {value}")


if __name__ == "__main__":
    sys.exit(main())
