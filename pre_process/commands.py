"""The work of `python -m pre_process`; __main__.py holds its flags."""

import argparse
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pre_process.corpus import describe, documents, fingerprint
from pre_process.corpus.cleaning import clean, strip_gutenberg
from pre_process.files import write_atomic
from pre_process.fitting import TokenizerSettings, VectorSettings
from pre_process.pre_process import Batch, PreProcess
from pre_process.provenance import Settings, check_settings
from pre_process.terminal import console
from pre_process.token_files import write_tokens
from pre_process.tokenizer import Tokenizer, open_tokenizer
from pre_process.tokenizer.formats import TextTokenizer

FEW = 12  # tokens that `show` names


def fit(arguments: argparse.Namespace) -> None:
    """Train what was asked for and keep it in a new folder."""
    settings = fit_settings(arguments)
    _check_new(arguments.out)
    tokenizer = open_tokenizer(arguments.tokenizer) if arguments.tokenizer else None
    source = None if arguments.data == "-" else arguments.data
    with _progress() as bars:
        tasks = {name: bars.add_task(name, total=None) for name in ("tokenizer", "encoding", "word vectors")}
        bars.update(tasks["tokenizer"], visible=tokenizer is None)
        fitted = PreProcess.fit(
            lambda: documents(source),
            settings,
            tokenizer=tokenizer,
            source=describe(source),
            source_sha256=fingerprint(source),
            progress=lambda name, done, total: bars.update(tasks[name], completed=done, total=total),
        )
        fitted.save(arguments.out)
    rows, columns = fitted.embeddings.shape
    print(f"{describe(source)}: {rows} tokens, word vectors of {columns} dimensions, in {arguments.out}")
    unseen = len(fitted.unseen())
    print(f"{unseen} tokens never occur; python -m pre_process show {arguments.out} names them and says what made all")


def fit_settings(arguments: argparse.Namespace) -> Settings:
    """The settings that the flags of `fit` give. Raises PreProcessError, or ValueError if two contradict each other."""
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    trained, vectors, own = (
        {name: given[name] for name in kind.__struct_fields__ if name in given and name != "tokenizer"}
        for kind in (TokenizerSettings, VectorSettings, Settings)
    )
    if arguments.tokenizer and trained:
        name = next(iter(trained)).replace("_", "-")
        raise ValueError(f"--{name} says how to train a tokenizer, but --tokenizer gives one: leave one of them out")
    settings = Settings(tokenizer=TokenizerSettings(**trained), vectors=VectorSettings(**vectors), **own)
    check_settings(settings)
    return settings


def _check_new(folder: Path) -> None:
    """Raise OSError before the work, not after it, for a folder that is there or that can't be made."""
    import tempfile

    if folder.exists():
        raise FileExistsError(f"{folder} is there already: choose another folder or delete it")
    nearest = next(parent for parent in folder.absolute().parents if parent.exists())
    with tempfile.TemporaryFile(dir=nearest):
        pass


def show(arguments: argparse.Namespace) -> None:
    """A table of what made a folder and what is in it."""
    from rich.table import Table

    table = Table("", "", title=str(arguments.folder), show_header=False, title_justify="left")
    table.columns[1].overflow = "fold"
    for name, value in summary(PreProcess.load(arguments.folder)).items():
        table.add_row(name, value)
    console().print(table)


def summary(fitted: PreProcess) -> dict[str, str]:
    """What `show` says, line by line."""
    made, corpus, settings = fitted.provenance, fitted.provenance.corpus, fitted.settings
    how = "given" if settings.tokenizer is None else f"trained: {_listed(settings.tokenizer)}"
    unseen = fitted.unseen()
    named = ", ".join(repr(_shown(fitted.tokenizer, int(i))) for i in unseen[:FEW])
    share = f"; {settings.val_fraction:.0%} of the text is held out" if settings.val_fraction else ""
    return {
        "text": corpus.source or "not said",
        "its SHA-256": corpus.source_sha256 or "not said",
        "learned from": f"{corpus.documents:,} documents, {corpus.bytes:,} bytes, {corpus.tokens:,} tokens{share}",
        "tokenizer": f"{fitted.tokenizer.vocab_size:,} tokens, {how}",
        "word vectors": _listed(settings.vectors),
        "positions": f"{settings.positions}; texts of {settings.context_length:,} tokens at most",
        "never seen": f"{len(unseen):,} tokens{': ' * bool(named)}{named}{', …' * (len(unseen) > FEW)}"
        " (random directions, padding zero)",
        "made by": ", ".join(f"{name} {version}" for name, version in made.versions.items()),
        **{name: f"SHA-256 {sha256}" for name, sha256 in made.files.items()},
    }


def _listed(settings: msgspec.Struct) -> str:
    return ", ".join(f"{name} {value}" for name, value in msgspec.structs.asdict(settings).items())


def transform(arguments: argparse.Namespace) -> None:
    """Print the tokens of texts; save their vectors."""
    if arguments.npz and not arguments.npz.parent.is_dir():
        raise FileNotFoundError(f"{arguments.npz.parent} isn't a folder: nowhere to write {arguments.npz.name}")
    fitted = PreProcess.load(arguments.folder)
    batch = fitted.transform(arguments.texts, pad=arguments.pad, truncate=arguments.truncate)
    if arguments.npz:
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **batch._asdict())
        write_atomic(arguments.npz, content.getvalue())
    _print_tokens(batch, fitted.tokenizer)


def _print_tokens(batch: Batch, tokenizer: TextTokenizer) -> None:
    """One row a real token: its text, its id, its position, the length of its vector."""
    from rich.table import Table

    table = Table("text", "position", "token", "id", "|vector|", title=f"vectors {batch.vectors.shape} float32")
    for row, (vectors, ids, mask) in enumerate(zip(*batch, strict=True)):
        for position, (vector, token_id) in enumerate(zip(vectors[mask], ids[mask], strict=True)):
            token = repr(_shown(tokenizer, int(token_id)))
            table.add_row(str(row), str(position), token, str(token_id), f"{np.linalg.norm(vector):.3f}")
    console().print(table)


def _shown(tokenizer: TextTokenizer, token_id: int) -> str:
    return tokenizer.token_bytes(token_id).decode(errors="backslashreplace")


def tokens(arguments: argparse.Namespace) -> None:
    """Encode a corpus into token files."""
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

    with _progress() as bars:
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


def _progress() -> Any:
    """Bars on standard error, if somebody looks at it."""
    from rich.console import Console
    from rich.progress import Progress

    screen = Console(stderr=True)
    return Progress(console=screen, transient=True, disable=not screen.is_terminal)
