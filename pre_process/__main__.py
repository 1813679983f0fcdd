"""Commands: `fit` trains tokenizer and word vectors, `show` says what made them, `transform` shows what texts become,
`tokens` encodes a corpus.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from pre_process import commands
from pre_process.fitting import TokenizerSettings, VectorSettings
from pre_process.provenance import Settings
from pre_process.terminal import run_command

_DATA = ".txt, .md, .jsonl or folder; - is the embedded Wikipedia excerpt"
_HELP: dict[type[msgspec.Struct], dict[str, str]] = {
    TokenizerSettings: {
        "vocab_size": "tokens at most",
        "pattern": "what cuts text",
        "normalizer": "changes made to text first",
        "min_frequency": "pairs seen less often are left alone",
    },
    VectorSettings: {
        "d_model": "length of a word vector; even, if positions are added",
        "engine": "what trains the word vectors",
        "architecture": "a token from its neighbours (cbow), or they from it",
        "window": "tokens to each side that are its neighbours",
        "negative": "tokens drawn by chance for each token, to be told from its neighbours",
        "epochs": "passes of word2vec over the text",
        "sample": "tokens that make up more than this share are passed over now and then; 0: none is",
        "lr": "learning rate at first",
        "min_lr": "and at the end",
        "seed": "of the word vectors",
    },
    Settings: {
        "positions": "sinusoidal or none: what is added to word vectors",
        "context_length": "tokens of a text at most",
        "val_fraction": "share of the text that word vectors don't see: the one that nanograd.train validates on",
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code, see `run_command`."""
    arguments = _parser().parse_args(argv)
    return run_command(lambda: arguments.run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pre_process", description="text → ids → vectors → + positions")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_fit(verbs.add_parser("fit", help="train a tokenizer and word vectors and keep them in a folder"))

    show = verbs.add_parser("show", help="say what made a folder and what is in it, after checking every file")
    show.add_argument("folder", type=Path, metavar="FOLDER", help="what fit wrote")
    show.set_defaults(run=commands.show)

    _add_transform(verbs.add_parser("transform", help="show the tokens of texts; save their vectors"))
    _add_tokens(verbs.add_parser("tokens", help="encode a corpus into token files, for nanograd.train --data"))
    return parser


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help=_DATA)
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="a folder that isn't there yet")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="PATH",
        help="take this one, train none: a tokenizer.json, .model (SentencePiece) or .tiktoken file, or its folder",
    )
    for kind, helps in _HELP.items():
        for name, text in helps.items():
            _add_setting(parser, kind, name, text)
    parser.set_defaults(run=commands.fit)


def _add_setting(parser: argparse.ArgumentParser, kind: type[msgspec.Struct], name: str, text: str) -> None:
    """A flag for a field of `kind`; None where it isn't given, so that `fit` knows."""
    default = getattr(kind(), name)
    hint: Any = get_type_hints(kind)[name]
    any_of: dict[str, Any] = {"type": type(default), "metavar": "NAME" if isinstance(default, str) else "N"}
    one_of = {"choices": get_args(hint)} if get_origin(hint) is Literal else any_of
    parser.add_argument(f"--{name.replace('_', '-')}", help=f"{text} ({default})", **one_of)


def _add_transform(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what fit wrote")
    parser.add_argument("texts", nargs="+", metavar="TEXT")
    parser.add_argument("--pad", choices=["left", "right"], default="left", help="side of the padding (left)")
    parser.add_argument("--truncate", choices=["left", "right"], help="what a text loses that is too long")
    parser.add_argument("--npz", type=Path, metavar="FILE", help="save the arrays vectors, ids and mask here")
    parser.set_defaults(run=commands.transform)


def _add_tokens(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help=_DATA)
    for name, text in (
        ("--tokenizer", "that holds tokenizer.json"),
        ("--out", "for the token files; one that was being written is continued"),
    ):
        parser.add_argument(name, required=True, type=Path, metavar="FOLDER", help=f"a folder {text}")
    parser.add_argument(
        "--val-fraction", type=float, default=0.05, metavar="N", help="share of the text that is held out (0.05)"
    )
    parser.add_argument("--clean", action="store_true", help="NFC; drop control characters")
    parser.add_argument("--gutenberg", action="store_true", help="take off Project Gutenberg's header and licence")
    parser.set_defaults(run=commands.tokens)


if __name__ == "__main__":
    sys.exit(main())
