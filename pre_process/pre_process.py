"""PreProcess: texts → token ids → word vectors → + positions, fitted once and kept in one folder."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from pre_process.arrays import ArrayFileError, load_array, save_array
from pre_process.encode_position import add_positions
from pre_process.files import new_folder, write_atomic
from pre_process.tokenizer import Tokenizer, TokenizerError
from pre_process.tokenizer.normalize import NormalizerName
from pre_process.tokenizer.pre_tokenize import PatternName
from pre_process.word2vec import train_embeddings

FORMAT_VERSION = 1


class PreProcessError(ValueError):
    """A folder that holds no usable PreProcess, or texts it can't take; the message is one line."""


class Batch(NamedTuple):
    """What `PreProcess.transform` makes of B texts, the longest of T tokens."""

    vectors: np.ndarray  # (B, T, C) float32: word vector + position; zero at pads
    ids: np.ndarray  # (B, T) int32
    mask: np.ndarray  # (B, T) bool, True = real token


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """settings.json: what `fit` was told, and which tokenizer the rows of embeddings.npy belong to."""

    format_version: int
    context_length: int
    d_model: int
    seed: int
    tokenizer_sha256: str


class PreProcess:
    """A tokenizer, a word vector for each of its tokens, and sinusoidal positions.

    Attributes: `tokenizer`, `embeddings` (V, C) float32 whose row i belongs to token i, `settings`.
    """

    def __init__(self, tokenizer: Tokenizer, embeddings: np.ndarray, settings: Settings) -> None:
        self.tokenizer = tokenizer
        self.embeddings = embeddings
        self.settings = settings

    @classmethod
    def fit(
        cls,
        documents: Callable[[], Iterator[str]],
        *,
        vocab_size: int = 4096,
        d_model: int = 192,
        context_length: int = 256,
        pattern: PatternName = "gpt2",
        normalizer: NormalizerName = "none",
        epochs: int = 10,
        seed: int = 0,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> "PreProcess":
        """Train the tokenizer on documents(), then word vectors on the ids of a second documents().

        The ids of all documents stay in memory meanwhile (4 bytes a token). progress gets ("tokenizer" or "word
        vectors", steps done, steps). Equal arguments give equal bits. Raises ValueError.
        """
        if d_model < 2 or d_model % 2 or context_length < 1:
            raise ValueError(f"need an even d_model and context_length >= 1, not {d_model} and {context_length}")
        tokenizer = Tokenizer.train(
            documents(),
            vocab_size=vocab_size,
            pattern=pattern,
            normalizer=normalizer,
            progress=_named(progress, "tokenizer"),
        )
        embeddings = train_embeddings(
            [tokenizer.encode(document) for document in documents()],
            vocab_size=tokenizer.vocab_size,
            d_model=d_model,
            epochs=epochs,
            seed=seed,
            zero_ids=[tokenizer.pad_id],
            progress=_named(progress, "word vectors"),
        )
        settings = Settings(
            format_version=FORMAT_VERSION,
            context_length=context_length,
            d_model=d_model,
            seed=seed,
            tokenizer_sha256=tokenizer.sha256,
        )
        return cls(tokenizer, embeddings, settings)

    def transform(self, texts: Sequence[str], *, pad: Literal["left", "right"] = "left") -> Batch:
        """Vectors (B, T, C), ids and mask (B, T) of B texts; a text's vectors don't depend on the others or on `pad`.

        Raises PreProcessError for a text of more than context_length tokens.
        """
        try:
            ids, mask = self.tokenizer.encode_batch(texts, pad=pad, max_length=self.settings.context_length)
        except TokenizerError as error:
            raise PreProcessError(str(error)) from None
        return Batch(add_positions(self.embeddings[ids], mask), ids, mask)

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, embeddings.npy and settings.json; the folder appears complete or not at all.

        Raises FileExistsError for a folder that is there already, OSError.
        """
        folder = Path(folder)
        if folder.exists():
            raise FileExistsError(f"{folder} is there already: choose another folder or delete it")
        with new_folder(folder) as new:
            self.tokenizer.save(new)
            save_array(new / "embeddings.npy", self.embeddings)
            write_atomic(new / "settings.json", msgspec.json.format(msgspec.json.encode(self.settings)))

    @classmethod
    def load(cls, folder: str | Path) -> "PreProcess":
        """Read what `save` wrote. Raises PreProcessError: missing, damaged, or files that don't belong together."""
        folder = Path(folder)
        settings = _load_settings(folder / "settings.json")
        try:
            tokenizer = Tokenizer.load(folder)
            embeddings = load_array(folder / "embeddings.npy")
        except (TokenizerError, ArrayFileError, OSError) as error:
            raise PreProcessError(f"{folder} can't be loaded: {error}") from None
        if tokenizer.sha256 != settings.tokenizer_sha256:
            raise PreProcessError(f"{folder}: tokenizer.json isn't the tokenizer that the word vectors were made for")
        if embeddings.shape != (tokenizer.vocab_size, settings.d_model) or embeddings.dtype != np.float32:
            found, wanted = f"{embeddings.dtype} {embeddings.shape}", (tokenizer.vocab_size, settings.d_model)
            raise PreProcessError(f"{folder}: embeddings.npy is {found}, tokenizer and settings want float32 {wanted}")
        return cls(tokenizer, embeddings, settings)


def _named(progress: Callable[[str, int, int], None] | None, name: str) -> Callable[[int, int], None] | None:
    return (lambda done, total: progress(name, done, total)) if progress else None


def _load_settings(path: Path) -> Settings:
    try:
        settings = msgspec.json.decode(path.read_bytes(), type=Settings)
    except FileNotFoundError:
        raise PreProcessError(
            f"{path} is missing: {path.parent} wasn't written by `python -m pre_process fit`"
        ) from None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PreProcessError(f"{path} can't be read: {error}") from None
    if settings.format_version != FORMAT_VERSION:
        raise PreProcessError(
            f"{path} has format version {settings.format_version}, this program reads {FORMAT_VERSION}"
        )
    return settings
