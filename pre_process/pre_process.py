"""PreProcess: texts → token ids → word vectors → + positions, fitted once and kept in one folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from pre_process.arrays import ArrayFileError, load_array, save_array
from pre_process.encode_position import add_positions
from pre_process.files import hidden_name_as, new_folder
from pre_process.fitting import Sentences, encode_rows, encoded, special_id, train_tokenizer, train_vectors
from pre_process.provenance import (
    Corpus,
    PreProcessError,
    Provenance,
    Settings,
    check_settings,
    read_provenance,
    versions,
    write_provenance,
)
from pre_process.token_splits import Documents
from pre_process.tokenizer import TokenizerError, open_tokenizer
from pre_process.tokenizer.batch import pad_batch, truncate_ids
from pre_process.tokenizer.formats import TextTokenizer
from pre_process.tokenizer.tokenizer import PAD_NAMES
from pre_process.word2vec import count_tokens

Side = Literal["left", "right"]


class Batch(NamedTuple):
    """What `PreProcess.transform` makes of B texts, the longest of T tokens."""

    vectors: np.ndarray  # (B, T, C) float32: word vector + position; zero at pads
    ids: np.ndarray  # (B, T) int32
    mask: np.ndarray  # (B, T) bool, True = real token


class PreProcess:
    """A tokenizer, a word vector for each of its tokens, and positions.

    Attributes: `tokenizer`, `embeddings` (V, C) float32 and `counts` (V,) int64, how often word2vec has seen a token,
    whose rows i belong to token i, and `provenance`.
    """

    def __init__(
        self, tokenizer: TextTokenizer, embeddings: np.ndarray, counts: np.ndarray, provenance: Provenance
    ) -> None:
        self.tokenizer, self.embeddings, self.counts, self.provenance = tokenizer, embeddings, counts, provenance
        padding = special_id(tokenizer, PAD_NAMES)
        self._pad_id = 0 if padding is None else padding  # the mask says what is padding: any id will do

    @property
    def settings(self) -> Settings:
        """What `fit` was told."""
        return self.provenance.settings

    @classmethod
    def fit(
        cls,
        documents: Documents,
        settings: Settings | None = None,
        *,
        tokenizer: TextTokenizer | None = None,
        source: str = "",
        source_sha256: str = "",
        progress: Callable[[str, int, int], None] | None = None,
    ) -> "PreProcess":
        """Train a tokenizer, unless one is given, on documents(), then word vectors on the ids of what isn't held out.

        documents() is called three times; the ids lie in a temporary file (2 or 4 bytes a token). Equal arguments give
        equal bits. source and source_sha256 say what the text is. progress gets ("tokenizer", "encoding" or
        "word vectors", steps done, steps). Raises ValueError, OSError.
        """
        settings = msgspec.structs.replace(settings or Settings(), **({"tokenizer": None} if tokenizer else {}))
        check_settings(settings)
        if tokenizer is None:
            if settings.tokenizer is None:
                raise PreProcessError("give a tokenizer, or say how to train one")
            tokenizer = train_tokenizer(documents(), settings.tokenizer, _named(progress, "tokenizer"))
        with encoded(
            documents, tokenizer, val_fraction=settings.val_fraction, progress=_named(progress, "encoding")
        ) as text:
            embeddings = train_vectors(text.ids, tokenizer, settings.vectors, _named(progress, "word vectors"))
            counts = count_tokens(Sentences(text.ids), tokenizer.vocab_size)
        corpus = Corpus(
            source=source,
            source_sha256=source_sha256,
            documents=text.documents,
            bytes=text.bytes,
            tokens=int(counts.sum()),
        )
        made_by = versions(settings.vectors.engine)
        return cls(tokenizer, embeddings, counts, Provenance(corpus=corpus, settings=settings, versions=made_by))

    def unseen(self) -> np.ndarray:
        """(n,) the ids that word2vec never saw: random directions with the mean length of the others, padding zero."""
        return np.flatnonzero(self.counts == 0)

    def transform(self, texts: Sequence[str], *, pad: Side = "left", truncate: Side | None = None) -> Batch:
        """Vectors (B, T, C), ids and mask (B, T) of B texts; a text's vectors don't depend on the others or on `pad`.

        Raises PreProcessError for a text of more than context_length tokens, unless `truncate` names the side to drop.
        """
        try:
            rows = [
                truncate_ids(row, max_length=self.settings.context_length, truncate=truncate)
                for row in encode_rows(self.tokenizer, texts)
            ]
            ids, mask = pad_batch(rows, pad=pad, pad_id=self._pad_id)
        except TokenizerError as error:
            raise PreProcessError(str(error)) from None
        vectors = self.embeddings[ids]
        if self.settings.positions == "none":
            return Batch(np.where(mask[..., None], vectors, np.float32(0)), ids, mask)
        return Batch(add_positions(vectors, mask), ids, mask)

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's file, embeddings.npy, counts.npy and provenance.json: a complete folder or none.

        Raises FileExistsError for a folder that is there already, OSError.
        """
        folder = Path(folder)
        if folder.exists():
            raise FileExistsError(f"{folder} is there already: choose another folder or delete it")
        with hidden_name_as(folder), new_folder(folder) as new:
            self.tokenizer.save(new)
            save_array(new / "embeddings.npy", self.embeddings)
            save_array(new / "counts.npy", self.counts)
            write_provenance(new, self.provenance)

    @classmethod
    def load(cls, folder: str | Path) -> "PreProcess":
        """Read what `save` wrote, every hash compared. Raises PreProcessError: missing, damaged, changed."""
        folder = Path(folder)
        provenance = read_provenance(folder)
        try:
            tokenizer = open_tokenizer(folder)
            embeddings, counts = load_array(folder / "embeddings.npy"), load_array(folder / "counts.npy")
        except (TokenizerError, ArrayFileError, OSError) as error:
            raise PreProcessError(f"{folder} can't be loaded: {error}") from None
        wanted = (tokenizer.vocab_size, provenance.settings.vectors.d_model)
        if embeddings.shape != wanted or embeddings.dtype != np.float32 or counts.shape != wanted[:1]:
            found = f"{embeddings.dtype} {embeddings.shape}"
            raise PreProcessError(f"{folder}: embeddings.npy is {found}, tokenizer and settings want float32 {wanted}")
        return cls(tokenizer, embeddings, counts, provenance)


def _named(progress: Callable[[str, int, int], None] | None, name: str) -> Callable[[int, int], None] | None:
    return (lambda done, total: progress(name, done, total)) if progress else None
