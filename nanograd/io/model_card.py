"""A model's card: what it is, by hash, and how well it predicts a text: model_card.json, and MODEL_CARD.md to read."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from nanograd.evaluation import Figures
from pre_process.files import sha256_file, write_atomic

FORMAT_VERSION = 1
JSON, MARKDOWN = "model_card.json", "MODEL_CARD.md"
FILES = ("model.safetensors", "config.json", "tokenizer.json")


class CardError(ValueError):
    """A card that is missing, damaged or of another model; the message is one line."""


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What model_card.json holds. No date and no host: the same evaluation gives the same file."""

    format_version: int = FORMAT_VERSION
    parameters: int
    model: dict[str, Any]
    files: dict[str, str]
    """SHA-256 of each file of the model"""
    source: str
    source_sha256: str
    settings: dict[str, Any]
    """of the evaluation, as its flags"""
    figures: Figures
    command: str
    versions: dict[str, str]


def hash_files(run: Path) -> dict[str, str]:
    """SHA-256 of each file that makes the model. Raises OSError."""
    return {name: sha256_file(run / name) for name in FILES}


def versions() -> dict[str, str]:
    """Of what computes the figures."""
    return {"python": platform.python_version(), **{name: version(name) for name in ("nanograd", "numpy", "numba")}}


def write_card(run: Path, card: Card) -> None:
    """Write model_card.json and MODEL_CARD.md, each in one step. Raises OSError."""
    write_atomic(run / JSON, msgspec.json.format(msgspec.json.encode(card)) + b"\n")
    write_atomic(run / MARKDOWN, to_markdown(run.name, card).encode())


def read_card(run: Path) -> Card:
    """The card in a run folder. Raises CardError."""
    path = run / JSON
    try:
        card = msgspec.json.decode(path.read_bytes(), type=Card)
    except FileNotFoundError:
        raise CardError(f"{run} holds no {JSON}: python -m nanograd.evaluate --freeze writes it") from None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CardError(f"{path} can't be read: {error}") from None
    if card.format_version != FORMAT_VERSION:
        raise CardError(f"{path} has format {card.format_version}, this nanograd reads {FORMAT_VERSION}")
    return card


def to_markdown(name: str, card: Card) -> str:
    """The card for people."""
    figures = {
        "loss": f"{card.figures.loss:.6f} nats per token",
        "perplexity": f"{card.figures.perplexity:.4f}",
        "bits per byte": f"{card.figures.bits_per_byte:.6f}",
        "text": f"{card.figures.documents:,} documents, {card.figures.tokens:,} tokens, {card.figures.bytes:,} bytes",
    }
    files = {f"`{name}`": f"`{sha256}`" for name, sha256 in card.files.items()}
    evaluation = {**card.settings, **card.versions}
    parts = [
        f"# {name}\n\nA decoder language model of {card.parameters:,} parameters, trained with nanograd.\n",
        f"## How well it predicts\nOn {card.source} (`--split {card.settings['split']}`): every token of each document "
        "once, and the end of each. Each document stands alone, longer ones in windows.\n",
        _table("figure", "value", figures),
        f"To check them: `python -m nanograd.evaluate RUN --check`. They were made by\n```sh\n{card.command}\n```\n",
        "## What was measured (SHA-256)\n",
        _table("file", "hash", {**files, "the text": f"`{card.source_sha256}`"}),
        "## Its shape\n",
        _table("setting", "value", {f"`{key}`": str(value) for key, value in card.model.items()}),
        "## The evaluation\n",
        _table("setting", "value", {f"`{key}`": str(value) for key, value in evaluation.items()}),
        "It repeats what its text says, truths and errors alike; nothing keeps it from inventing the rest.\n",
    ]
    return "\n".join(parts)


def _table(left: str, right: str, rows: dict[str, str]) -> str:
    lines = [f"| {left} | {right} |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
    return "\n".join(lines) + "\n"
