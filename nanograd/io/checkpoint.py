"""A model in a folder: model.safetensors (weights), config.json (shape), tokenizer.json (text ↔ ids)."""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np

from nanograd import backend
from nanograd.io.arrays import ArraysError, read_arrays
from nanograd.models import MODELS, DecoderLM, DecoderLMConfig
from pre_process.files import open_atomic, write_atomic
from pre_process.tokenizer import Tokenizer, TokenizerError

FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"


class CheckpointError(ValueError):
    """A folder that holds no model, or a damaged or foreign one: one line that names the file and the fault."""


class ModelCard(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What config.json holds."""

    format_version: int
    architecture: str
    tokenizer_sha256: str
    model: DecoderLMConfig


def save_tokenizer(folder: Path, model_config: DecoderLMConfig, tokenizer: Tokenizer) -> None:
    """Write config.json and tokenizer.json: everything about a model that training does not change."""
    card = ModelCard(
        format_version=FORMAT_VERSION,
        architecture="decoder",
        tokenizer_sha256=tokenizer.sha256,
        model=model_config,
    )
    tokenizer.save(folder)
    write_atomic(folder / "config.json", msgspec.json.format(msgspec.json.encode(card)) + b"\n")


def publish_weights(checkpoint: Path, folder: Path) -> None:
    """Copy the weights in one step: whoever looks sees the old ones or the new ones, never a mixture."""
    with (checkpoint / WEIGHTS).open("rb") as source, open_atomic(folder / WEIGHTS) as copy:
        shutil.copyfileobj(source, copy, 1 << 20)


def load_model(folder: Path, *, device: str = "cpu") -> tuple[DecoderLM, Tokenizer]:
    """The model, in evaluation mode, and its tokenizer. Raises CheckpointError and DeviceError."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: name the run folder that nanograd.train printed")
    card = _read_card(folder / "config.json")
    tokenizer = _read_tokenizer(folder / "tokenizer.json", card)
    weights = _read_weights(folder / WEIGHTS)
    model = MODELS[card.architecture].model(card.model)
    try:
        model.load_state_dict(weights)
    except ValueError as error:
        raise CheckpointError(f"{folder / 'model.safetensors'} does not fit config.json: {error}") from None
    model.eval()
    backend.check_device(device)
    model.to(device)
    return model, tokenizer


def _read_card(path: Path) -> ModelCard:
    text = _read(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is damaged: it is not JSON") from None
    if not isinstance(content, dict) or "format_version" not in content:
        raise CheckpointError(f"{path} was not written by nanograd: it has no format_version")
    if content["format_version"] != FORMAT_VERSION:
        raise CheckpointError(f"{path} has format {content['format_version']}, this nanograd reads {FORMAT_VERSION}")
    try:
        card = msgspec.convert(content, ModelCard)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    if card.architecture not in MODELS:
        raise CheckpointError(f"{path} names the architecture {card.architecture!r}; known: {', '.join(MODELS)}")
    return card


def _read_tokenizer(path: Path, card: ModelCard) -> Tokenizer:
    _read(path)
    try:
        tokenizer = Tokenizer.load(path)
    except TokenizerError as error:
        raise CheckpointError(str(error)) from None
    if tokenizer.sha256 != card.tokenizer_sha256:
        raise CheckpointError(f"{path} is not the tokenizer this model was trained with (its hash differs)")
    return tokenizer


def _read_weights(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_arrays(path)
    except ArraysError as error:
        raise CheckpointError(str(error)) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path.parent} holds no {path.name}: it is not a run folder, or nothing was saved")
    return CheckpointError(f"cannot read {path}: {error.strerror}")
