"""Floor 5. The checkpoints of a run: RUN/checkpoints/step-00001234, each one whole or not there at all.

    model.safetensors      the weights; with config.json and tokenizer.json the folder is a model (io/checkpoint.py)
    optimizer.safetensors  the optimizer's state
    weights.safetensors    with a mean of the weights (--ema-decay) model.safetensors is that, and this goes on learning
    state.json             step, random streams, place in the data and in metrics.jsonl (io/training_state.py)
    config.toml            the settings
    MANIFEST.json          size and SHA-256 of each of these, of the data, and of itself

Which is the latest and which the best is computed from these folders: there is no pointer that could lie. Order of
writes: files, manifest, fsync of all, rename, fsync of the parent, and only then an older checkpoint is deleted.
"""

import hashlib
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from nanograd.io.checkpoint import CheckpointError
from pre_process.files import hidden_name_as, new_folder, replaced_name, sha256_file, sync_folder, write_atomic

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST = "MANIFEST.json"


class FormatError(ValueError):
    """The checkpoint is whole, but of a format that this nanograd does not know."""


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file must be."""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What MANIFEST.json holds. Its last entry is its own hash."""

    format_version: int
    step: int
    val_loss: float | None
    data_sha256: str
    tokenizer_sha256: str
    files: dict[str, File]


def _signed(manifest: dict[str, Any]) -> bytes:
    """As JSON, with the SHA-256 of the rest as the last entry."""
    digest = hashlib.sha256(msgspec.json.encode(manifest)).hexdigest()
    return msgspec.json.format(msgspec.json.encode({**manifest, "sha256": digest})) + b"\n"


def write_checkpoint(
    run: Path,
    fill: Callable[[Path], None],
    *,
    step: int,
    val_loss: float | None,
    data_sha256: str,
    tokenizer_sha256: str,
) -> Path:
    """Let `fill` write the files into a hidden folder, add the manifest, and let the checkpoint appear in one step.

    Raises OSError; the checkpoints that are there stay as they are.
    """
    folder = run / "checkpoints" / folder_name(step)
    with new_folder(folder, replace=True) as new:
        with hidden_name_as(folder):
            fill(new)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            step=step,
            val_loss=val_loss,
            data_sha256=data_sha256,
            tokenizer_sha256=tokenizer_sha256,
            files={path.name: File(path.stat().st_size, sha256_file(path)) for path in sorted(new.iterdir())},
        )
        write_atomic(new / MANIFEST, _signed(msgspec.to_builtins(manifest)))
    return folder


def folder_name(step: int) -> str:
    """Of a step's checkpoint."""
    return f"step-{step:08}"


def all_checkpoints(run: Path) -> list[Path]:
    """Folders of checkpoints, the oldest first. Hidden ones, those set aside, and other people's are not among them."""
    folders = (run / "checkpoints").glob("step-*")
    return sorted((f for f in folders if re.fullmatch(r"step-\d{8,}", f.name)), key=lambda f: int(f.name[5:]))


def check_checkpoint(folder: Path) -> Manifest:
    """Compare every byte with the manifest. Raises CheckpointError, which names the file and the fault; FormatError."""
    manifest = _read_manifest(folder / MANIFEST)
    if folder.name != folder_name(manifest.step):
        raise CheckpointError(f"{folder} holds the checkpoint of step {manifest.step}: somebody has renamed it")
    for name, promised in manifest.files.items():
        path = folder / name
        if not re.fullmatch(r"[\w.-]*\w", name):
            raise CheckpointError(f"{folder / MANIFEST} names {name!r}, which is no file of that folder")
        try:
            size = path.stat().st_size
            if size != promised.size:
                raise CheckpointError(f"{path} has {size:,} bytes, {promised.size:,} were written")
            if sha256_file(path) != promised.sha256:
                raise CheckpointError(f"{path} is damaged: its bytes are not those that were written")
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    return manifest


def _read_manifest(path: Path) -> Manifest:
    try:
        content = path.read_bytes()
        entries = msgspec.json.decode(content, type=dict[str, Any])
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise CheckpointError(f"{path} is damaged: it is not JSON") from None
    entries.pop("sha256", None)
    if _signed(entries) != content:
        raise CheckpointError(f"{path} is damaged: its hash differs")
    if entries.get("format_version") != FORMAT_VERSION:
        version = entries.get("format_version")
        raise FormatError(f"{path} has format {version}, this nanograd reads {FORMAT_VERSION}: use the one it is from")
    try:
        return msgspec.convert(entries, Manifest)
    except msgspec.ValidationError as error:
        raise FormatError(f"{path} does not fit this nanograd: {error}") from None


def newest_valid(run: Path) -> tuple[Path, Manifest] | None:
    """The newest checkpoint whose every byte is as it was written; None if the run has no checkpoint.

    Damaged ones on the way there are told and set aside, as checkpoints/damaged-step-…, for somebody to look at.
    Raises CheckpointError if all are damaged.
    """
    recover(run)
    damaged = []
    for folder in reversed(all_checkpoints(run)):
        try:
            manifest = check_checkpoint(folder)
        except CheckpointError as error:
            damaged.append((folder, error))
            continue
        for bad, fault in damaged:
            log.warning("%s; going back to %s, and the damaged one is now %s", fault, folder.name, _set_aside(bad))
        return folder, manifest
    if damaged:
        raise CheckpointError(f"{run} has no checkpoint that is whole: {damaged[0][1]}")
    return None


def _set_aside(folder: Path) -> Path:
    aside = folder.with_name(f"damaged-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)


def recover(run: Path) -> None:
    """Finish or undo what a killed process was at: half-written, half-deleted and half-replaced checkpoints."""
    for hidden in list((run / "checkpoints").glob(".step-*")):
        step = hidden.name[1:].partition(".")[0]
        target = hidden.with_name(step)
        if hidden == replaced_name(target) and not target.exists():
            hidden.rename(target)
        else:
            shutil.rmtree(hidden)


def best_checkpoint(run: Path) -> Path | None:
    """The one with the lowest validation loss, of equals the oldest; None if none was measured."""
    measured = []
    for folder in all_checkpoints(run):
        try:
            manifest = _read_manifest(folder / MANIFEST)
        except (CheckpointError, FormatError):
            continue
        if manifest.val_loss is not None:
            measured.append((manifest.val_loss, manifest.step, folder))
    return min(measured)[2] if measured else None


def prune(run: Path, *, keep: int, keep_every: int) -> None:
    """Delete checkpoints but the newest `keep`, the best one, and those of every `keep_every` steps (0: none)."""
    folders = all_checkpoints(run)
    kept = {*folders[-keep:], best_checkpoint(run)}
    for folder in folders:
        if folder not in kept and not (keep_every and int(folder.name[5:]) % keep_every == 0):
            _delete(folder)


def _delete(folder: Path) -> None:
    """First it gets a hidden name: whoever looks in between finds a whole checkpoint or none."""
    hidden = folder.with_name(f".{folder.name}.deleted")
    folder.rename(hidden)
    sync_folder(folder.parent)
    shutil.rmtree(hidden)
