"""Commands: `fit` trains tokenizer and word vectors, `transform` shows what texts become, `tokens` encodes a corpus."""

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from pre_process.corpus import describe, documents, fingerprint
from pre_process.corpus.cleaning import clean, strip_gutenberg
from pre_process.files import write_atomic
from pre_process.pre_process import Batch, PreProcess
from pre_process.terminal import run_command
from pre_process.token_files import write_tokens
from pre_process.tokenizer import Tokenizer
from pre_process.tokenizer.normalize import NormalizerName
from pre_process.tokenizer.pre_tokenize import PatternName


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code, see `run_command`."""
    arguments = _parser().parse_args(argv)
    return run_command(lambda: arguments.run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pre_process", description="text → ids → vectors → + positions")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    defaults = argparse.ArgumentDefaultsHelpFormatter
    fit = commands.add_parser(
        "fit", help="train a tokenizer and word vectors and keep them in a folder", formatter_class=defaults
    )
    fit.add_argument("data", metavar="DATA", help=".txt, .md, .jsonl or folder; - is the embedded Wikipedia excerpt")
    fit.add_argument(
        "--out",
        required=True,
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FOLDER",
        help="a folder that isn't there yet",
    )
    fit.add_argument("--vocab-size", type=int, default=4096, help="tokens at most")
    fit.add_argument("--d-model", type=int, default=192, help="length of a word vector; even")
    fit.add_argument("--context-length", type=int, default=256, help="tokens of a text at most")
    fit.add_argument("--pattern", choices=get_args(PatternName), default="gpt2", help="what cuts text")
    fit.add_argument(
        "--normalizer", choices=get_args(NormalizerName), default="none", help="changes made to text first"
    )
    fit.add_argument("--epochs", type=int, default=10, help="of word2vec")
    fit.add_argument("--seed", type=int, default=0, help="of the word vectors")
    fit.set_defaults(run=_fit)

    transform = commands.add_parser("transform", help="show the tokens of texts; save their vectors")
    transform.add_argument("folder", type=Path, metavar="FOLDER", help="what fit wrote")
    transform.add_argument("texts", nargs="+", metavar="TEXT")
    transform.add_argument("--pad", choices=["left", "right"], default="left", help="side of the padding (left)")
    transform.add_argument("--npz", type=Path, metavar="FILE", help="save the arrays vectors, ids and mask here")
    transform.set_defaults(run=_transform)

    tokens = commands.add_parser(
        "tokens", help="encode a corpus into token files, for nanograd.train --data", formatter_class=defaults
    )
    tokens.add_argument("data", metavar="DATA", help=".txt, .md, .jsonl or folder; - is the embedded Wikipedia excerpt")
    for name, text in (
        ("--tokenizer", "that holds tokenizer.json"),
        ("--out", "for the token files; one that was being written is continued"),
    ):
        tokens.add_argument(
            name, required=True, type=Path, default=argparse.SUPPRESS, metavar="FOLDER", help=f"a folder {text}"
        )
    tokens.add_argument("--val-fraction", type=float, default=0.05, help="share of the text that is held out")
    tokens.add_argument("--clean", action="store_true", help="NFC; drop control characters")
    tokens.add_argument("--gutenberg", action="store_true", help="take off Project Gutenberg's header and licence")
    tokens.set_defaults(run=_tokens)
    return parser


def _fit(arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import Progress

    if arguments.out.exists():  # said before the work, not after it
        raise FileExistsError(f"{arguments.out} is there already: choose another folder or delete it")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    source = None if arguments.data == "-" else arguments.data
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = {name: bars.add_task(name, total=None) for name in ("tokenizer", "word vectors")}
        fitted = PreProcess.fit(
            lambda: documents(source),
            vocab_size=arguments.vocab_size,
            d_model=arguments.d_model,
            context_length=arguments.context_length,
            pattern=arguments.pattern,
            normalizer=arguments.normalizer,
            epochs=arguments.epochs,
            seed=arguments.seed,
            progress=lambda name, done, total: bars.update(tasks[name], completed=done, total=total),
        )
    fitted.save(arguments.out)
    rows, columns = fitted.embeddings.shape
    print(f"{describe(source)}: {rows} tokens, word vectors of {columns} dimensions, in {arguments.out}")


def _transform(arguments: argparse.Namespace) -> None:
    if arguments.npz and not arguments.npz.parent.is_dir():
        raise FileNotFoundError(f"{arguments.npz.parent} isn't a folder: nowhere to write {arguments.npz.name}")
    fitted = PreProcess.load(arguments.folder)
    batch = fitted.transform(arguments.texts, pad=arguments.pad)
    if arguments.npz:
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **batch._asdict())
        write_atomic(arguments.npz, content.getvalue())
    _print_table(batch, fitted.tokenizer)


def _tokens(arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import Progress

    if arguments.out.exists():
        raise FileExistsError(f"{arguments.out} is there already: choose another folder or delete it")
    source = None if arguments.data == "-" else arguments.data
    wanted = ((strip_gutenberg, arguments.gutenberg), (clean, arguments.clean))
    changes = [change for change, is_wanted in wanted if is_wanted]

    def texts() -> Iterator[str]:
        for text in documents(source):
            for change in changes:
                text = change(text)
            yield text

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("encoding", total=None)
        manifest = write_tokens(
            arguments.out,
            texts,
            Tokenizer.load(arguments.tokenizer),
            source=describe(source),
            source_sha256=" ".join([fingerprint(source), *(change.__name__ for change in changes)]),
            val_fraction=arguments.val_fraction,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    for name, split in manifest.splits.items():
        counts = f"{split.documents:,} documents, {split.tokens:,} tokens, {split.bytes:,} bytes"
        print(f"{name:5} {counts}, {len(split.shards)} shard{'s' * (len(split.shards) > 1)}")
    print(f"next: python -m nanograd.train --data {arguments.out} --vocab-size {manifest.vocab_size}")


def _print_table(batch: Batch, tokenizer: Tokenizer) -> None:
    """One row a real token: its text, its id, its position, the length of its vector."""
    from rich.console import Console
    from rich.table import Table

    table = Table("text", "position", "token", "id", "|vector|", title=f"vectors {batch.vectors.shape} float32")
    for row, (vectors, ids, mask) in enumerate(zip(*batch, strict=True)):
        for position, (vector, token_id) in enumerate(zip(vectors[mask], ids[mask], strict=True)):
            token = repr(tokenizer.token_bytes(int(token_id)).decode(errors="backslashreplace"))
            table.add_row(str(row), str(position), token, str(token_id), f"{np.linalg.norm(vector):.3f}")
    Console(highlight=False, markup=False).print(table)


if __name__ == "__main__":
    sys.exit(main())
