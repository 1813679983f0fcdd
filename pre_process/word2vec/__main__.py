"""`python -m pre_process.word2vec train | evaluate | neighbours | analogy | plot`: words ↔ vectors."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from pre_process.terminal import run_command
from pre_process.word2vec import commands, train_command
from pre_process.word2vec.map_picture import Method
from pre_process.word2vec.read_words import Split
from pre_process.word2vec.settings import Architecture, Engine, Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code, see `run_command`."""
    arguments = _parser().parse_args(argv)
    return run_command(lambda: arguments.run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pre_process.word2vec", description="words ↔ vectors")
    add = parser.add_subparsers(required=True, metavar="COMMAND").add_parser
    _train(add("train", help="text files → word vectors"))
    _evaluate(add("evaluate", help="agreement with people's ratings, analogies"))
    _neighbours(add("neighbours", help="what is near a word"))
    _analogy(add("analogy", help="A is to B as C is to …"))
    _plot(add("plot", help="a map of words, as a picture"))
    return parser


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="text, .jsonl, or one folder of token ids")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.bin", help="or .txt; for token ids also .npy")
    parser.add_argument("--engine", choices=get_args(Engine), default="nanograd", help="(nanograd)")
    parser.add_argument("--model", choices=get_args(Architecture), default="skip-gram", help="(skip-gram)")
    add = parser.add_argument
    add("--size", type=int, default=100, metavar="N", help="numbers in a vector (100)")
    add("--window", type=int, default=5, metavar="N", help="words on each side, at most (5)")
    add("--negative", type=int, default=5, metavar="N", help="words drawn by chance for each that is there (5)")
    add("--epochs", type=int, default=5, metavar="N", help="times that all is read (5)")
    add("--sample", type=float, default=1e-3, metavar="X", help="thins out words of a larger share; 0: none (1e-3)")
    add("--lr", type=float, default=0.025, metavar="X", help="learning rate at first, falling to 0.0001 (0.025)")
    add("--min-count", type=int, metavar="N", help="rarer words are left out, as if they weren't there (5)")
    add("--split", choices=get_args(Split), help="into lower-cased runs of letters, or at white space (letters)")
    add("--seed", type=int, default=0, metavar="N", help="of all chance (0)")
    threads = os.cpu_count() or 1
    add("--threads", type=int, default=threads, metavar="N", help=f"1: the same bits each time (all cores, {threads})")
    parser.set_defaults(run=_run_training)


def _run_training(given: argparse.Namespace) -> None:
    if given.size < 1:  # the one flag that isn't called what Settings calls it
        raise ValueError(f"--size must be at least 1, not {given.size}")
    settings = Settings(
        d_model=given.size, architecture=given.model, window=given.window, negative=given.negative, epochs=given.epochs,
        sample=given.sample, lr=given.lr, min_lr=min(Settings.min_lr, given.lr), seed=given.seed, threads=given.threads,
    )  # fmt: skip
    folders = [file for file in given.files if (file / "manifest.json").is_file()]
    if not folders:
        text: dict[str, Any] = {"split": given.split, "min_count": given.min_count}
        chosen = {name: value for name, value in text.items() if value is not None}
        train_command.train_on_text(given.files, given.out, settings, engine=given.engine, **chosen)
    elif len(given.files) > 1 or given.split or given.min_count is not None:
        raise ValueError(f"{folders[0]} holds token ids: give it alone, without --split and --min-count")
    else:
        train_command.train_on_tokens(folders[0], given.out, settings, engine=given.engine)


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
