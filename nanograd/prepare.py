"""Floor 5. From `--data` to what training reads: tokenizer, token files and word vectors, made once and cached.

Tokenizer and word vectors are made by the steps of PreProcess, so `--pre-process` with a folder that was fitted on the
same text and settings gives the same run bit by bit.
"""

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from nanograd.data import open_tokens
from nanograd.settings import PRESETS, TrainConfig
from pre_process import corpus
from pre_process.arrays import ArrayFileError, load_array, save_array
from pre_process.fitting import TokenizerSettings, VectorSettings, train_tokenizer, train_vectors
from pre_process.pre_process import PreProcess
from pre_process.provenance import Provenance
from pre_process.provenance import Settings as FitSettings
from pre_process.token_files import Manifest, TokenFileError, read_manifest, write_tokens
from pre_process.token_shards import holds_tokens
from pre_process.tokenizer import Tokenizer
from pre_process.word2vec.settings import ENGINE_VERSION

log = logging.getLogger(__name__)
PREPARED_FORMAT = 1  # raise it when prepared files change, and old caches are passed over
CHUNK = 1 << 22  # tokens counted at once

Stage = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]  # terminal.progress_bar, or a silent one


class PreparedText(NamedTuple):
    """A token folder, and the share of it in what is learned: 1 unless several are mixed."""

    folder: Path
    manifest: Manifest
    share: float


@dataclass(frozen=True)
class Prepared:
    """A token folder and what was learned from it. `embeddings`: (vocab_size, d_model) float32, or None.

    mixed  all texts of a mixture, that of `folder` first; empty if there is no other
    """

    folder: Path
    manifest: Manifest
    tokenizer: Tokenizer
    embeddings: np.ndarray | None
    mixed: tuple[PreparedText, ...] = ()

    @property
    def texts(self) -> tuple[PreparedText, ...]:
        """All that is learned from, with shares that add up to 1."""
        return self.mixed or (PreparedText(self.folder, self.manifest, 1.0),)

    def data_sha256(self) -> str:
        """One hash for all that training and validation read: the shards of every text, and its share."""
        texts = [(t.share, {name: [s.sha256 for s in split.shards] for name, split in t.manifest.splits.items()})
                 for t in self.texts]  # fmt: skip
        return hashlib.sha256(msgspec.json.encode(texts, order="deterministic")).hexdigest()

    def unigram_loss(self, targets: np.ndarray) -> float:
        """Nats per token of `targets` (n,) for a model that only knows how often each token occurs (plus one)."""
        counts = np.ones(self.manifest.vocab_size)
        n_tokens = sum(text.manifest.splits["train"].tokens for text in self.texts)
        for text in self.texts:
            train = open_tokens(text.folder, "train")
            as_often = text.share * n_tokens / len(train)
            for start in range(0, len(train), CHUNK):
                counts += as_often * np.bincount(train[start : start + CHUNK], minlength=len(counts))
        return float(-np.log(counts / counts.sum())[targets].mean())

    def bytes_per_token(self) -> float:
        """UTF-8 bytes that a validation token stands for, on average: turns nats per token into bits per byte."""
        sides = [(text.manifest.splits["val"], text.share) for text in self.texts]
        return float(sum(share * side.bytes / side.tokens for side, share in sides))


def prepare(config: TrainConfig, stage: Stage) -> Prepared:
    """Make, or find in the cache, everything that training on `config.data` needs.

    Raises CorpusError, TokenizerError, TokenFileError and PreProcessError for bad input, ValueError for what doesn't
    fit the model, OSError for an unwritable cache.
    """
    fitted = fitted_folder(config)
    folder = token_folder(config)
    manifest = read_or_make(config, folder, fitted.tokenizer if fitted else None, stage)
    tokenizer = Tokenizer.load(folder)
    _check_vocabulary(config, folder, manifest.vocab_size)
    if fitted and manifest.tokenizer_sha256 != fitted.tokenizer.sha256:
        raise ValueError(f"the ids in {folder} were made by another tokenizer than the one in {config.pre_process}")
    if config.init != "word2vec":
        return Prepared(folder, manifest, tokenizer, None)
    if fitted:
        _warn_of_held_out_text(config, fitted, manifest)
    vectors = fitted.embeddings if fitted else _word_vectors(config, folder, manifest, tokenizer, stage)
    more = config.model.vocab_size - len(vectors)  # rows of zeros: the model keeps what it draws
    return Prepared(folder, manifest, tokenizer, np.pad(vectors, ((0, more), (0, 0))))


class Fitted(NamedTuple):
    """What `--pre-process` gives: a tokenizer that training can use, and its word vectors (V, C) float32."""

    tokenizer: Tokenizer
    embeddings: np.ndarray
    provenance: Provenance


def fitted_folder(config: TrainConfig) -> Fitted | None:
    """What is in `config.pre_process`, if it is given. Raises PreProcessError, ValueError where it doesn't fit."""
    if config.pre_process is None:
        return None
    path, found = Path(config.pre_process), PreProcess.load(config.pre_process)
    if not isinstance(found.tokenizer, Tokenizer):
        raise ValueError(f"{path} holds a {type(found.tokenizer).__name__}: training wants byte-pair encoding")
    _check_vocabulary(config, path, found.tokenizer.vocab_size)
    _check_asked(config, path, found.provenance.settings)
    n_dimensions = found.embeddings.shape[1]
    if config.init == "word2vec" and n_dimensions != config.model.d_model:
        raise ValueError(
            f"{path} holds word vectors of {n_dimensions} dimensions, the model's have {config.model.d_model}: "
            f"give --d-model {n_dimensions} or --init random"
        )
    return Fitted(found.tokenizer, found.embeddings, found.provenance)


def _check_asked(config: TrainConfig, path: Path, made: FitSettings) -> None:
    """Raise ValueError for a setting, not the preset's own, of what was fitted otherwise: it would change nothing."""
    preset = PRESETS[config.preset]
    tokenizer = [
        (name, config.text, preset.text, made.tokenizer) for name in ("pattern", "normalizer", "min_frequency")
    ]
    vectors = [(f"word2vec_{name}", config, preset, made.vectors) for name in ("architecture", "epochs")]
    for name, given, usual, fitted in (*tokenizer, *vectors):
        asked, flag = getattr(given, name), "--" + name.replace("_", "-")
        if asked not in (getattr(usual, name), getattr(fitted, name.removeprefix("word2vec_"), None)):
            raise ValueError(f"{path} was not fitted with {flag} {asked}: leave it out, or fit anew")


def token_folder(config: TrainConfig) -> Path:
    """Where the token files of `config.data` are, or will be: the folder itself if it is one, else in the cache."""
    if config.data is not None and holds_tokens(config.data):
        return Path(config.data)
    if fitted := fitted_folder(config):
        return cached_tokens(config, fitted.tokenizer)
    text = msgspec.structs.replace(config.text, cache=None)
    key = _key(PREPARED_FORMAT, corpus.fingerprint(config.data), config.model.vocab_size, text)
    return cache_folder(config) / f"tokens-{key}"


def cached_tokens(config: TrainConfig, tokenizer: Tokenizer) -> Path:
    """Where the token files that a given tokenizer makes of `config.data` are, or will be."""
    key = _key(PREPARED_FORMAT, corpus.fingerprint(config.data), tokenizer.sha256, config.text.val_fraction)
    return cache_folder(config) / f"tokens-{key}"


def cache_folder(config: TrainConfig) -> Path:
    """`--cache`, or the user's cache folder as the system knows it."""
    if config.text.cache is not None:
        return Path(config.text.cache)
    import platformdirs

    return Path(platformdirs.user_cache_dir("nanograd", appauthor=False))


def _check_vocabulary(config: TrainConfig, folder: Path, vocab_size: int) -> None:
    if vocab_size > config.model.vocab_size:
        raise ValueError(
            f"{folder} has a vocabulary of {vocab_size:,} tokens, the model {config.model.vocab_size:,}: "
            f"give --vocab-size {vocab_size}"
        )


def _warn_of_held_out_text(config: TrainConfig, fitted: Fitted, manifest: Manifest) -> None:
    """Word vectors that have seen what the model is judged by flatter it."""
    made_from, share = fitted.provenance.corpus, fitted.provenance.settings.val_fraction
    if made_from.source_sha256 == manifest.source_sha256 and share < config.text.val_fraction:
        log.warning("the word vectors in %s have seen text that validation uses: fit held out %g of it, not %g",
                    config.pre_process, share, config.text.val_fraction)  # fmt: skip


def read_or_make(config: TrainConfig, folder: Path, tokenizer: Tokenizer | None, stage: Stage) -> Manifest:
    """The manifest of a token folder, which is made if need be; a damaged one again, unless it is the user's.

    tokenizer  that makes it (None: one that is trained on the text)
    """
    if folder.is_dir():
        try:
            return read_manifest(folder)
        except TokenFileError as error:
            if config.data is not None and folder == Path(config.data):
                raise
            log.warning("prepared text is damaged, making it again: %s", error)
            shutil.rmtree(folder)
    _check_writable(folder.parent)
    _write_token_folder(config, folder, tokenizer or _train_tokenizer(config, stage), stage)
    return read_manifest(folder)


def _check_writable(cache: Path) -> None:
    """Raise OSError before hours of work, not after."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        raise OSError(f"cannot keep prepared text in {cache}: {error.strerror}; give another --cache") from None


def _train_tokenizer(config: TrainConfig, stage: Stage) -> Tokenizer:
    text = config.text
    settings = TokenizerSettings(
        vocab_size=config.model.vocab_size,
        pattern=text.pattern,
        normalizer=text.normalizer,
        min_frequency=text.min_frequency,
    )
    with stage("training the tokenizer") as progress:
        return train_tokenizer(corpus.documents(config.data), settings, progress)


def _write_token_folder(config: TrainConfig, folder: Path, tokenizer: Tokenizer, stage: Stage) -> None:
    with stage("writing token files") as progress:
        write_tokens(
            folder,
            lambda: corpus.documents(config.data),
            tokenizer,
            source=corpus.describe(config.data),
            source_sha256=corpus.fingerprint(config.data),
            val_fraction=config.text.val_fraction,
            progress=progress,
        )
    log.info(
        "prepared %s in %s: %d tokens in the vocabulary", corpus.describe(config.data), folder, tokenizer.vocab_size
    )


def _word_vectors(
    config: TrainConfig, folder: Path, manifest: Manifest, tokenizer: Tokenizer, stage: Stage
) -> np.ndarray:
    """(V, C) float32 from the training tokens; row i belongs to token i. Cached beside the token folders."""
    settings = VectorSettings(
        d_model=config.model.d_model,
        architecture=config.word2vec_architecture,
        epochs=config.word2vec_epochs,
        seed=config.seed,
    )
    n_tokens = manifest.splits["train"].tokens
    key = _key(PREPARED_FORMAT, manifest.source_sha256, manifest.tokenizer_sha256, n_tokens, settings, ENGINE_VERSION)
    path = cache_folder(config) / f"word2vec-{key}.npy"
    if path.is_file():
        try:
            return load_array(path)
        except ArrayFileError as error:
            log.warning("making word vectors again: %s", error)
    _check_writable(path.parent)
    with stage("training word vectors") as progress:
        vectors = train_vectors(open_tokens(folder, "train"), tokenizer, settings, progress)
    save_array(path, vectors)
    return vectors


def _key(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]
