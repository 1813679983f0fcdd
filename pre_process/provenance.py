"""provenance.json: what a folder of `PreProcess` was made from, by what, how, and the hash of each file beside it."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import msgspec

from pre_process.files import sha256_file, write_atomic
from pre_process.fitting import Count, TokenizerSettings, VectorSettings
from pre_process.word2vec.settings import ENGINE_VERSION

FORMAT_VERSION = 2
FILE_NAME = "provenance.json"
IN_THE_MODEL = ("learned", "rotary", "alibi")  # ways to say where a token stands that are no vectors to add


class PreProcessError(ValueError):
    """A folder that holds no usable PreProcess, or texts or settings it can't take; the message is one line."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `PreProcess.fit` is told. tokenizer: how to train one, None if one was given."""

    tokenizer: TokenizerSettings | None = TokenizerSettings()
    vectors: VectorSettings = VectorSettings()
    positions: str = "sinusoidal"
    context_length: Count = 256
    val_fraction: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.05


class Corpus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The text: what the caller says about it, and how much of it the word vectors have seen."""

    source: str
    source_sha256: str
    documents: int
    bytes: int
    tokens: int


class Provenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What provenance.json holds. No date and no host: the same input gives the same file."""

    format_version: int = FORMAT_VERSION
    corpus: Corpus
    settings: Settings
    versions: dict[str, str]
    files: dict[str, str] = {}  # name → SHA-256, once there are files


def check_settings(settings: Settings) -> None:
    """Raise PreProcessError, before any work, for what could not be fitted."""
    try:
        msgspec.convert(msgspec.to_builtins(settings), Settings)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        given = msgspec.to_builtins(settings)
        for name in path.rstrip("`").split("."):
            given = given[name]
        raise PreProcessError(f"{path.rstrip('`').rpartition('.')[2]}: {reason}, not {given!r}") from None
    if settings.vectors.min_lr > settings.vectors.lr:
        raise PreProcessError(f"min_lr {settings.vectors.min_lr} is more than lr {settings.vectors.lr}")
    if settings.positions in IN_THE_MODEL:
        raise PreProcessError(
            f"{settings.positions} positions are part of a model, not of its input: choose none here, and "
            f"python -m nanograd.train --positions {settings.positions}"
        )
    if settings.positions not in ("sinusoidal", "none"):
        raise PreProcessError(f"positions are sinusoidal or none, not {settings.positions!r}")
    if settings.positions == "sinusoidal" and settings.vectors.d_model % 2:
        raise PreProcessError(
            f"d_model {settings.vectors.d_model} is odd: a sine would lack its cosine; choose another, or no positions"
        )


def versions(engine: str) -> dict[str, str]:
    """Of all that has a say in the bits."""
    packages = ("nanograd", "numpy", "gensim" if engine == "gensim" else "numba")
    found = {"python": platform.python_version(), **{name: _version(name) for name in packages}}
    return found if engine == "gensim" else {**found, "word2vec engine": str(ENGINE_VERSION)}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # nanograd, run from a clone without having been installed
        return "not installed"


def write_provenance(folder: Path, provenance: Provenance) -> None:
    """Write provenance.json, with the hashes of all that lies in the folder. Raises OSError."""
    files = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
    content = msgspec.json.encode(msgspec.structs.replace(provenance, files=files))
    write_atomic(folder / FILE_NAME, msgspec.json.format(content) + b"\n")


def read_provenance(folder: str | Path) -> Provenance:
    """What made a folder; the hash of every file is compared. Raises PreProcessError with the first thing wrong."""
    path = Path(folder) / FILE_NAME
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Version).format_version
        if found != FORMAT_VERSION:
            raise PreProcessError(f"{path} has format version {found}, this program reads {FORMAT_VERSION}")
        provenance = msgspec.json.decode(path.read_bytes(), type=Provenance)
    except FileNotFoundError:
        raise PreProcessError(
            f"{path} is missing: {path.parent} wasn't written by `python -m pre_process fit`"
        ) from None
    except OSError as error:
        raise PreProcessError(f"{path} can't be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PreProcessError(f"{path} can't be read: {error}") from None
    for name, sha256 in provenance.files.items():
        _check_file(path.with_name(name), sha256)
    return provenance


class _Version(msgspec.Struct):
    format_version: int


def _check_file(path: Path, wanted: str) -> None:
    try:
        found = sha256_file(path)
    except FileNotFoundError:
        raise PreProcessError(f"{path} is missing: fit again") from None
    except OSError as error:
        raise PreProcessError(f"{path} can't be read: {error.strerror}") from None
    if found != wanted:
        raise PreProcessError(
            f"{path} isn't the file that was saved (sha256 {found[:12]}…, not {wanted[:12]}…): fit again"
        )
