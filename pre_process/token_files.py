"""Documents → a folder of token files: on all cores, in shards, continued where a killed run stopped.

Documents are taken in batches of some megabytes, encoded together, and appended to one training and one validation
shard; a full pair of shards is closed, and then a note says how many documents they took. A run that finds such a note
goes on behind it. Which document lies in which shard depends on the documents alone: so do the bytes of every shard.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from pre_process.files import hidden_name_as, naming_file, sha256_file, sync_tree, write_atomic
from pre_process.token_shards import (
    FORMAT_VERSION,
    SPLITS,
    Manifest,
    Shard,
    ShardPair,
    Split,
    TokenFileError,
    read_manifest,
    shard_path,
)
from pre_process.token_splits import Documents, SplitPlan, plan_split, read_ahead, utf8

if TYPE_CHECKING:
    from pre_process.tokenizer import Tokenizer

SHARD_TOKENS = 1 << 26  # of training, then a new pair of shards begins: 128 MiB of 16-bit ids

Progress = Callable[[int, int], None]


class State(msgspec.Struct):
    """The note in a folder that is being written: what made it, and how far it has come."""

    made_by: list[Any]
    plan: SplitPlan
    documents: int = 0  # that lie in the closed shards
    bytes: int = 0
    closed: dict[str, list[Shard]] = msgspec.field(default_factory=lambda: {name: [] for name in SPLITS})

    def next_numbers(self) -> dict[str, int]:
        """Of the shards to write now."""
        return {name: len(shards) for name, shards in self.closed.items()}


def write_tokens(
    folder: Path,
    documents: Documents,
    tokenizer: "Tokenizer",
    *,
    source: str,
    source_sha256: str,
    val_fraction: float = 0.05,
    shard_tokens: int = SHARD_TOKENS,
    progress: Progress | None = None,
) -> Manifest:
    """Encode all documents into shards of ids (n,), an end-of-text id after each document.

    documents() is called twice: once to plan the split (nothing is encoded), once to encode. Memory holds some batches
    and 16 bytes for each document. progress gets (bytes encoded, bytes in all). The folder appears complete or not at
    all; one that is there already is kept, checked and described instead. Until then the closed shards are in a hidden
    folder beside it, and the next call with the same source, tokenizer and settings continues them. A second process
    waits for the first. Raises ValueError (val_fraction outside (0, 1)), TokenFileError (too little text), OSError.
    """
    import filelock

    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.partial"
    lock = filelock.FileLock(f"{partial}.lock")
    try:
        with hidden_name_as(folder):
            Path(lock.lock_file).touch()  # where no file can be made (/proc) acquire() would try again for ever
            lock.acquire()
        with naming_file(folder):
            if folder.is_dir():
                return read_manifest(folder)
            made_by = [FORMAT_VERSION, source_sha256, tokenizer.sha256, val_fraction, shard_tokens]
            manifest = _write(partial, documents, tokenizer, made_by, source, progress)
            _finish(partial, manifest, tokenizer)
            partial.rename(folder)
            return manifest
    finally:
        if lock.is_locked:  # else another process holds it, and waiting for that was interrupted
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _finish(partial: Path, manifest: Manifest, tokenizer: "Tokenizer") -> None:
    tokenizer.save(partial)
    write_atomic(partial / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))
    _state_path(partial).unlink()
    sync_tree(partial)


def _write(
    partial: Path,
    documents: Documents,
    tokenizer: "Tokenizer",
    made_by: list[Any],
    source: str,
    progress: Progress | None,
) -> Manifest:
    """All shards, in `partial`. What an error leaves there is what a later call can continue, or nothing."""
    state, keys = _resume(partial, made_by), None
    try:
        if state is None:
            plan, keys = plan_split(documents, made_by[3])
            state = State(made_by, plan)
            partial.mkdir()
            _save(partial, state)
        dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
        _encode(partial, _sides(documents(), state, keys), tokenizer, dtype, state, progress)
    except BaseException as error:
        if state is None or not state.documents or isinstance(error, TokenFileError):
            shutil.rmtree(partial, ignore_errors=True)
        raise
    return Manifest(
        format_version=FORMAT_VERSION,
        source=source,
        source_sha256=made_by[1],
        tokenizer_sha256=made_by[2],
        vocab_size=tokenizer.vocab_size,
        dtype="uint16" if dtype.itemsize == 2 else "uint32",
        split_by=state.plan.by,
        splits={name: Split(shards) for name, shards in state.closed.items()},
    )


def _state_path(partial: Path) -> Path:
    return partial / "state.json"


def _save(partial: Path, state: State) -> None:
    write_atomic(_state_path(partial), msgspec.json.encode(state))


def _resume(partial: Path, made_by: list[Any]) -> State | None:
    """The state to go on from; None, and no folder, if there is none or it was made by something else or is damaged."""
    try:
        state = msgspec.json.decode(_state_path(partial).read_bytes(), type=State)
        whole = all(
            sha256_file(shard_path(partial, name, number)) == shard.sha256
            for name, shards in state.closed.items()
            for number, shard in enumerate(shards)
        )
    except (OSError, msgspec.DecodeError):
        whole = False
    if whole and state.made_by == made_by:
        return state
    if partial.exists():
        shutil.rmtree(partial)
    return None


def _sides(documents: Iterator[str], state: State, keys: Sequence[int] | None) -> Iterator[list[tuple[str, str]]]:
    """Batches of documents from where `state` stands, each cut into (to train on, to validate on)."""
    known = repeat(None) if keys is None else iter(keys)
    for batch in read_ahead(islice(documents, state.documents, None)):
        yield [state.plan.parts(text, key) for text, key in zip(batch, known, strict=False)]


def _encode(
    partial: Path,
    batches: Iterator[list[tuple[str, str]]],
    tokenizer: "Tokenizer",
    dtype: np.dtype[Any],
    state: State,
    progress: Progress | None,
) -> None:
    """Fill shards from where `state` stands; it is saved whenever a pair is closed."""
    pair = ShardPair(partial, state.next_numbers(), dtype)
    try:
        for batch in batches:
            _add(pair, batch, tokenizer)
            if progress:
                progress(state.bytes + pair.bytes, state.plan.total_bytes)
            if pair.tokens["train"] >= state.made_by[4]:
                _close(pair, partial, state)
                pair = ShardPair(partial, state.next_numbers(), dtype)
        if pair.documents:
            _close(pair, partial, state)
    finally:
        pair.discard()
    for name in SPLITS:
        if not state.closed[name]:
            total = state.plan.total_bytes
            raise TokenFileError(f"the text is too short to split: nothing is left for {name} ({total} bytes in all)")


def _add(pair: ShardPair, batch: list[tuple[str, str]], tokenizer: "Tokenizer") -> None:
    """Encode a batch of documents and append each to its side."""
    for i, name in enumerate(SPLITS):
        if parts := [sides[i] for sides in batch if sides[i]]:
            ids, _ = tokenizer.encode_documents(parts, end_of_text=True)
            pair.add(name, ids, len(parts), sum(len(utf8(part)) for part in parts))
    pair.documents += len(batch)


def _close(pair: ShardPair, partial: Path, state: State) -> None:
    for name, shard in pair.close().items():
        state.closed[name].append(shard)
    state.documents += pair.documents
    state.bytes += pair.bytes
    _save(partial, state)
