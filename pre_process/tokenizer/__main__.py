"""`python -m pre_process.tokenizer train | encode | decode | inspect`: byte-pair encoding from the command line."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from pre_process.terminal import run_command
from pre_process.tokenizer import commands
from pre_process.tokenizer.formats import open_tokenizer
from pre_process.tokenizer.hugging_face_parts import Settings
from pre_process.tokenizer.normalize import NormalizerName
from pre_process.tokenizer.pre_tokenize import PatternName

_FOLDER = "folder with tokenizer.json; or a tokenizer.json, .model (SentencePiece) or .tiktoken file"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code, see `run_command`."""
    arguments = _parser().parse_args(argv)
    return run_command(lambda: arguments.run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pre_process.tokenizer", description="text ↔ ids")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_encode(commands)
    _add_decode(commands)
    _add_inspect(commands)
    return parser


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("train", help="learn a vocabulary from text files")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="UTF-8 text; or .jsonl, a document a line")
    parser.add_argument("--vocab-size", type=int, required=True, metavar="N", help="tokens at most")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="gets tokenizer.json")
    parser.add_argument("--pattern", choices=get_args(PatternName), default="gpt2", help="what cuts text (gpt2)")
    parser.add_argument(
        "--min-frequency", type=int, default=2, metavar="N", help="pairs seen less often are left alone (2)"
    )
    parser.add_argument(
        "--special-tokens", nargs="*", default=["<|pad|>", "<|endoftext|>"], metavar="NAME", help="get the first ids"
    )
    parser.add_argument(
        "--normalizer", choices=get_args(NormalizerName), default="none", help="changes made first (none)"
    )
    parser.add_argument("--lowercase", action="store_true", help="lower case, for training and encoding")
    parser.add_argument("--add-prefix-space", action="store_true", help="the first word of a text is as all others")
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> None:
    commands.train(
        arguments.files,
        arguments.out,
        Settings(arguments.pattern, arguments.normalizer, arguments.lowercase, arguments.add_prefix_space),
        vocab_size=arguments.vocab_size,
        special_tokens=arguments.special_tokens,
        min_frequency=arguments.min_frequency,
    )


def _add_encode(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "encode",
        help="text → ids",
        description="With --out all of FILE is one document; else each line of FILE or of standard input is one, "
        "and its ids are printed in a line.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help=_FOLDER)
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="UTF-8 text (standard input)")
    parser.add_argument("--out", type=Path, metavar="IDS.npy", help="write the ids here, as one array")
    parser.add_argument("--allow-special", action="store_true", help="special tokens in the text are special")
    parser.set_defaults(run=_encode)


def _encode(arguments: argparse.Namespace) -> None:
    if arguments.out and not arguments.file:
        raise ValueError("--out wants a FILE: standard input has one document a line, whose ids are printed")
    tokenizer = open_tokenizer(arguments.folder)
    if arguments.out:
        commands.encode_file(tokenizer, arguments.file, arguments.out, allow_special=arguments.allow_special)
    else:
        commands.encode_lines(tokenizer, arguments.file, allow_special=arguments.allow_special)


def _add_decode(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("decode", help="ids → text, on standard output")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help=_FOLDER)
    parser.add_argument("ids", type=Path, metavar="IDS.npy", help="a row of ids")
    parser.add_argument("--keep-special", action="store_true", help="special tokens are shown, not left out")
    parser.set_defaults(run=_decode)


def _decode(arguments: argparse.Namespace) -> None:
    commands.decode_file(open_tokenizer(arguments.folder), arguments.ids, keep_special=arguments.keep_special)


def _add_inspect(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("inspect", help="look into a vocabulary, and at a text through it")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help=_FOLDER)
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="UTF-8 text")
    parser.add_argument("--show", type=int, default=1000, metavar="N", help="characters of FILE to print (1000)")
    parser.set_defaults(run=_inspect)


def _inspect(arguments: argparse.Namespace) -> None:
    commands.inspect(arguments.folder, arguments.file, show=max(0, arguments.show))


if __name__ == "__main__":
    sys.exit(main())
