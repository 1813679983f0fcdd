"""Floor 5. From `--data` to what training reads: tokenizer, token files and word vectors, made once and cached."""

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from nanograd.data import open_tokens
from nanograd.settings import TrainConfig
from pre_process import corpus
from pre_process.arrays import ArrayFileError, load_array, save_array
from pre_process.token_files import Manifest, TokenFileError, read_manifest, write_tokens
from pre_process.token_shards import holds_tokens
from pre_process.tokenizer import Tokenizer

log = logging.getLogger(__name__)
PREPARED_FORMAT = 1  # raise it when prepared files change, and old caches are passed over
CHUNK = 1 << 22  # tokens counted at once
SENTENCE = 1000  # tokens that word2vec sees as one sentence

Stage = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]  # terminal.progress_bar, or a silent one


@dataclass(frozen=True)
class Prepared:
    """A token folder and what was learned from it. `embeddings`: (vocab_size, d_model) float32, or None."""

    folder: Path
    manifest: Manifest
    tokenizer: Tokenizer
    embeddings: np.ndarray | None

    def unigram_loss(self, targets: np.ndarray) -> float:
        """Nats per token of `targets` (n,) for a model that only knows how often each token occurs (plus one)."""
        train, counts = open_tokens(self.folder, "train"), np.ones(self.manifest.vocab_size)
        for start in range(0, len(train), CHUNK):
            counts += np.bincount(train[start : start + CHUNK], minlength=len(counts))
        return float(-np.log(counts / counts.sum())[targets].mean())

    def bytes_per_token(self) -> float:
        """UTF-8 bytes that a validation token stands for, on average: turns nats per token into bits per byte."""
        split = self.manifest.splits["val"]
        return float(split.bytes / split.tokens)


def prepare(config: TrainConfig, stage: Stage) -> Prepared:
    """Make, or find in the cache, everything that training on `config.data` needs.

    Raises CorpusError, TokenizerError and TokenFileError for bad input, OSError for an unwritable cache.
    """
    folder = token_folder(config)
    manifest = _manifest(config, folder, stage)
    tokenizer = Tokenizer.load(folder)
    if manifest.vocab_size > config.model.vocab_size:
        raise ValueError(
            f"{folder} has a vocabulary of {manifest.vocab_size:,} tokens, the model {config.model.vocab_size:,}: "
            f"give --vocab-size {manifest.vocab_size}"
        )
    embeddings = _word_vectors(config, folder, manifest, stage) if config.init == "word2vec" else None
    return Prepared(folder, manifest, tokenizer, embeddings)


def token_folder(config: TrainConfig) -> Path:
    """Where the token files of `config.data` are, or will be: the folder itself if it is one, else in the cache."""
    if config.data is not None and holds_tokens(config.data):
        return Path(config.data)
    text = msgspec.structs.replace(config.text, cache=None)
    key = _key(PREPARED_FORMAT, corpus.fingerprint(config.data), config.model.vocab_size, text)
    return cache_folder(config) / f"tokens-{key}"


def cache_folder(config: TrainConfig) -> Path:
    """`--cache`, or the user's cache folder as the system knows it."""
    if config.text.cache is not None:
        return Path(config.text.cache)
    import platformdirs

    return Path(platformdirs.user_cache_dir("nanograd", appauthor=False))


def _manifest(config: TrainConfig, folder: Path, stage: Stage) -> Manifest:
    """The manifest of a token folder, which is made if need be; a damaged one again, unless it is the user's."""
    if folder.is_dir():
        try:
            return read_manifest(folder)
        except TokenFileError as error:
            if config.data is not None and folder == Path(config.data):
                raise
            log.warning("prepared text is damaged, making it again: %s", error)
            shutil.rmtree(folder)
    _check_writable(folder.parent)
    _write_token_folder(config, folder, stage)
    return read_manifest(folder)


def _check_writable(cache: Path) -> None:
    """Raise OSError before hours of work, not after."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        raise OSError(f"cannot keep prepared text in {cache}: {error.strerror}; give another --cache") from None


def _write_token_folder(config: TrainConfig, folder: Path, stage: Stage) -> None:
    text = config.text
    with stage("training the tokenizer") as progress:
        tokenizer = Tokenizer.train(
            corpus.documents(config.data),
            vocab_size=config.model.vocab_size,
            pattern=text.pattern,
            normalizer=text.normalizer,
            min_frequency=text.min_frequency,
            progress=progress,
        )
    with stage("writing token files") as progress:
        write_tokens(
            folder,
            lambda: corpus.documents(config.data),
            tokenizer,
            source=corpus.describe(config.data),
            source_sha256=corpus.fingerprint(config.data),
            val_fraction=text.val_fraction,
            progress=progress,
        )
    log.info(
        "prepared %s in %s: %d tokens in the vocabulary", corpus.describe(config.data), folder, tokenizer.vocab_size
    )


def _word_vectors(config: TrainConfig, folder: Path, manifest: Manifest, stage: Stage) -> np.ndarray:
    """(V, C) float32 from the training tokens; row i belongs to token i. Cached beside the token folders."""
    from pre_process.word2vec import train_embeddings

    V, C = config.model.vocab_size, config.model.d_model
    train = manifest.splits["train"]
    key = _key(PREPARED_FORMAT, manifest.source_sha256, manifest.tokenizer_sha256, train.tokens, V, C,
               config.word2vec_architecture, config.word2vec_epochs, config.seed)  # fmt: skip
    path = cache_folder(config) / f"word2vec-{key}.npy"
    if path.is_file():
        try:
            return load_array(path)
        except ArrayFileError as error:
            log.warning("making word vectors again: %s", error)
    _check_writable(path.parent)
    ids = open_tokens(folder, "train")
    with stage("training word vectors"):
        vectors = train_embeddings(
            [ids[i : i + SENTENCE] for i in range(0, len(ids), SENTENCE)],
            vocab_size=V,
            d_model=C,
            architecture=config.word2vec_architecture,
            epochs=config.word2vec_epochs,
            seed=config.seed,
        )
    save_array(path, vectors)
    return vectors


def _key(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]
