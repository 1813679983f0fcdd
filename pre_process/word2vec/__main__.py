"""`python -m pre_process.word2vec evaluate | neighbours | analogy | plot`: word vectors from the command line."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from pre_process.terminal import run_command
from pre_process.word2vec import commands
from pre_process.word2vec.map_picture import Method


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code, see `run_command`."""
    arguments = _parser().parse_args(argv)
    return run_command(lambda: arguments.run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pre_process.word2vec", description="words ↔ vectors")
    add = parser.add_subparsers(required=True, metavar="COMMAND").add_parser
    _evaluate(add("evaluate", help="agreement with people's ratings, analogies"))
    _neighbours(add("neighbours", help="what is near a word"))
    _analogy(add("analogy", help="A is to B as C is to …"))
    _plot(add("plot", help="a map of words, as a picture"))
    return parser


def _evaluate(parser: argparse.ArgumentParser) -> None:
    _takes_vectors(parser, lambda given: commands.evaluate(given.file, as_json=given.json))
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of tables")


def _neighbours(parser: argparse.ArgumentParser) -> None:
    _takes_vectors(parser, lambda given: commands.neighbours(given.file, given.words, given.n))
    parser.add_argument("words", nargs="+", metavar="WORD", help="as it is spelt in the file")
    parser.add_argument("--n", type=int, default=10, metavar="N", help="how many (10)")


def _analogy(parser: argparse.ArgumentParser) -> None:
    _takes_vectors(parser, lambda given: commands.analogy(given.file, given.a, given.b, given.c, given.n))
    for name in "abc":
        parser.add_argument(name, metavar=name.upper())
    parser.add_argument("--n", type=int, default=10, metavar="N", help="how many (10)")


def _plot(parser: argparse.ArgumentParser) -> None:
    _takes_vectors(parser, lambda given: commands.plot(
        given.file, given.out, given.words, top=given.top, skip=given.skip, method=given.method
    ))  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="MAP.png", help="or .svg, .pdf")
    parser.add_argument("--words", nargs="+", default=[], metavar="WORD", help="draw these")
    parser.add_argument("--top", type=int, default=300, metavar="N", help="draw the N most frequent words (300)")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="leave out the N most frequent before (0)")
    parser.add_argument(
        "--method", choices=get_args(Method), default="pca",
        help="pca: the two directions of most spread; t-sne: neighbours stay neighbours, distances mean little (pca)",
    )  # fmt: skip


def _takes_vectors(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None]) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="word vectors, .bin or .txt")
    parser.set_defaults(run=run)


if __name__ == "__main__":
    sys.exit(main())
