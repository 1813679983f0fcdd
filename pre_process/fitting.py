"""The steps from documents to word vectors. `PreProcess.fit` takes them all; `nanograd.train`, which has token files,
takes the first and the last: equal settings and texts give both the same bits.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np

from pre_process.files import naming_file
from pre_process.token_shards import Tokens
from pre_process.token_splits import Documents, SplitPlan, plan_split, read_ahead, utf8
from pre_process.tokenizer import Tokenizer
from pre_process.tokenizer.batch import split_rows
from pre_process.tokenizer.formats import TextTokenizer
from pre_process.tokenizer.normalize import NormalizerName
from pre_process.tokenizer.pre_tokenize import PatternName
from pre_process.tokenizer.tokenizer import END_OF_TEXT_NAMES, PAD_NAMES
from pre_process.word2vec import train_embeddings
from pre_process.word2vec.kernels import LONGEST

SENTENCE = 1000  # tokens that word2vec sees as one sentence

Count = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]  # compiled code counts in 64 bits, products too
Progress = Callable[[int, int], None]


class TokenizerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a tokenizer is trained: see `Tokenizer.train`."""

    vocab_size: Count = 4096
    pattern: PatternName = "gpt2"
    normalizer: NormalizerName = "none"
    min_frequency: Count = 2


class VectorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How word vectors are trained: see `train_embeddings`."""

    d_model: Count = 192
    engine: Literal["nanograd", "gensim"] = "nanograd"
    architecture: Literal["cbow", "skip-gram"] = "skip-gram"
    window: Annotated[int, msgspec.Meta(ge=1, le=LONGEST)] = 5
    negative: Count = 5
    epochs: Count = 5
    sample: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 1e-3
    lr: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.025
    min_lr: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 1e-4
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0


class Sentences:
    """Ids (n,) as word2vec reads them, as often as it likes: SENTENCE at a time, loaded when their turn comes."""

    def __init__(self, ids: Tokens | np.ndarray) -> None:
        self.ids = ids

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self.ids), SENTENCE):
            yield np.asarray(self.ids[start : start + SENTENCE])


class EncodedText(NamedTuple):
    """What there is to learn word vectors from."""

    ids: np.ndarray  # (n,) uint16 or uint32, on disk until they are read
    documents: int  # of which something was encoded
    bytes: int  # of UTF-8


def train_tokenizer(documents: Iterable[str], settings: TokenizerSettings, progress: Progress | None) -> Tokenizer:
    """A byte-pair tokenizer for these documents, which are read once. Raises TokenizerError."""
    return Tokenizer.train(documents, **msgspec.structs.asdict(settings), progress=progress)


@contextlib.contextmanager
def encoded(
    documents: Documents, tokenizer: TextTokenizer, *, val_fraction: float, progress: Progress | None
) -> Iterator[EncodedText]:
    """The ids of all documents but those held out, in a file without a name that is gone after the block.

    The same share as in the token files of `write_tokens` is held out (0: none), and the ids are those of its training
    shards: each document's, and an end-of-text id, if the tokenizer has one. documents() is called twice; some
    megabytes of text are in memory at a time. progress gets (bytes encoded, bytes in all). Raises ValueError, OSError.
    """
    plan = _plan(documents, val_fraction)
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    n_documents = n_bytes = n_ids = done = 0
    with naming_file(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
        for batch in read_ahead(documents()):
            parts = [part for part in (plan.parts(text)[0] for text in batch) if part]
            ids = np.concatenate([np.empty(0, dtype), *encode_rows(tokenizer, parts, end_of_text=True)])
            file.write(ids.astype(dtype).data)
            n_documents, n_ids = n_documents + len(parts), n_ids + len(ids)
            n_bytes += sum(len(utf8(part)) for part in parts)
            done += sum(len(utf8(text)) for text in batch)
            if progress:
                progress(done, plan.total_bytes)
        file.flush()
        if not n_ids:
            raise ValueError(f"no text is left to learn from ({plan.total_bytes} bytes in all)")
        yield EncodedText(np.memmap(file, dtype, mode="r", shape=(n_ids,)), n_documents, n_bytes)


def _plan(documents: Documents, val_fraction: float) -> SplitPlan:
    if val_fraction:
        return plan_split(documents, val_fraction)[0]
    return SplitPlan("tails", 0, 0.0, sum(len(utf8(text)) for text in documents()))


def encode_rows(tokenizer: TextTokenizer, texts: Sequence[str], *, end_of_text: bool = False) -> list[np.ndarray]:
    """Ids (n,) of each text; with `end_of_text` its id behind each, if the tokenizer has one. Raises TokenizerError."""
    end = special_id(tokenizer, END_OF_TEXT_NAMES) if end_of_text else None
    if isinstance(tokenizer, Tokenizer):  # on all cores
        return split_rows(tokenizer.encode_documents(texts, end_of_text=end is not None))
    tail = np.array([] if end is None else [end], np.int32)
    return [np.concatenate([tokenizer.encode(text), tail]) for text in texts]


def train_vectors(
    ids: Tokens | np.ndarray, tokenizer: TextTokenizer, settings: VectorSettings, progress: Progress | None
) -> np.ndarray:
    """(V, C) float32 from the ids (n,) of a text; row i belongs to token i, that of padding is zero. Raises ValueError.

    A token that never occurs gets a random direction with the mean length of the others.
    """
    padding = special_id(tokenizer, PAD_NAMES)
    return train_embeddings(
        Sentences(ids),
        vocab_size=tokenizer.vocab_size,
        **msgspec.structs.asdict(settings),
        zero_ids=[] if padding is None else [padding],
        progress=progress,
    )


def special_id(tokenizer: TextTokenizer, names: Sequence[str]) -> int | None:
    """The id of the first of these special tokens that the tokenizer has; None if it has none of them."""
    return next((tokenizer.special_tokens[name] for name in names if name in tokenizer.special_tokens), None)
