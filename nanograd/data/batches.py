"""Floor 5. Rows of a text → batches. The one place where targets are shifted by one."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from nanograd import backend, random
from nanograd.backend import Array
from nanograd.data.layouts import DataError, Deal, Layout, Packed, Padded, Windows
from nanograd.data.mixture import Mixture
from nanograd.data.packing import Ids, Pieces, cut_long, find_documents, pack

NO_TARGET = -100  # the loss's ignore_index: nothing is to be learned here
LayoutName = Literal["windows", "packed", "padded"]


class Batch(NamedTuple):
    """What a model is given: `model.loss(*batch)` on the CPU, `model.loss(**batch.on(device))` anywhere.

    inputs, targets  (B, T) int64; targets[b, t] follows inputs[b, t], or is NO_TARGET
    padding_mask     (B, T) bool, True where there is a token; None: everywhere
    documents        (B, T) int32, tokens that belong together have the same number; None: a row is one text
    """

    inputs: np.ndarray
    targets: np.ndarray
    padding_mask: np.ndarray | None = None
    documents: np.ndarray | None = None

    @property
    def n_targets(self) -> int:
        """Of targets that count."""
        return self.targets.size if self._is_full else int((self.targets != NO_TARGET).sum())

    @property
    def _is_full(self) -> bool:
        return self.padding_mask is None and self.documents is None

    def named(self) -> dict[str, np.ndarray]:
        """What there is, by the names of DecoderLM.loss."""
        named: dict[str, Any] = {"ids": self.inputs, **self._asdict()}
        del named["inputs"]
        return {name: array for name, array in named.items() if array is not None}

    def on(self, device: str) -> dict[str, Array]:
        """The same on a device."""
        return {name: backend.to_device(array, device) for name, array in self.named().items()}


class Source:
    """One text in its layout. Group `number` = 0, 1, 2, … is a function of that number and the seed."""

    def __init__(self, ids: Ids, layout: Layout, *, seed: int, name: str = "data") -> None:
        self.ids, self.layout, self.seed, self.name = ids, layout, seed, name
        self._deal: tuple[int, Deal | None] = (-1, None)

    def rows(self, number: int) -> list[list[np.ndarray]]:
        """The pieces (n + 1,) of each row of a group: n inputs and one token more."""
        epoch, i = divmod(number, self.layout.n_groups)
        at, deal = self._deal
        if at != epoch or deal is None:
            deal = self.layout.deal(random.generator(self.seed, f"{self.name} epoch {epoch}"))
            self._deal = epoch, deal  # in one step: other threads see the old epoch or the new one, both whole
        return [[self.ids[a : a + n + 1] for a, n in deal.rows.row(row)] for row in deal.order[i].tolist()]


class TrainingBatches:
    """Batches of one text, or of several mixed by weight.   Batch i depends on (seed, i) and nothing else.

    end_of_text  id that parts documents; the layouts 'packed' and 'padded' need it
    Raises DataError for too little text.
    """

    def __init__(
        self,
        *texts: Ids,
        batch_size: int,
        context_length: int,
        seed: int,
        layout: LayoutName = "windows",
        end_of_text: int = 0,
        weights: Sequence[float] = (1.0,),
    ) -> None:
        self.sources = [
            Source(
                ids, make_layout(layout, ids, context_length, batch_size, end_of_text, seed=seed), seed=seed, name=name
            )
            for ids, name in zip(texts, _names(len(texts)), strict=True)
        ]
        self.mixture = Mixture(weights, seed=seed)
        self.width = None if layout == "padded" else context_length
        self.groups = batch_size // self.sources[0].layout.rows_per_group

    def batch(self, index: int) -> Batch:
        """Micro-batch `index` = 0, 1, 2, …"""
        rows = []
        for number in range(index * self.groups, (index + 1) * self.groups):
            source, draw = self.mixture.place(number)
            rows += self.sources[source].rows(draw)
        return assemble(rows, self.width)


def _names(count: int) -> list[str]:
    """Of each text's stream of chance."""
    return ["data", *(f"data {i}" for i in range(1, count))]


def make_layout(
    name: LayoutName, ids: Ids, context_length: int, batch_size: int, end_of_text: int, *, seed: int
) -> Layout:
    """The layout of a text, by its name. Raises DataError."""
    if name == "windows":
        return Windows(len(ids), context_length)
    if len(ids) < 2:
        raise DataError(f"the training text has {len(ids)} tokens, too few to learn from: give more --data")
    documents = find_documents(ids, end_of_text)
    if name == "packed":
        return Packed(documents, context_length, random.generator(seed, "packing"))
    return Padded(documents, context_length, batch_size)


def assemble(rows: Sequence[Sequence[np.ndarray]], width: int | None) -> Batch:
    """Rows of pieces (n + 1,) → a batch (B, width), or as wide as the longest row for None.

    Rows of one full piece are stacked. Others are filled from the left; what remains is padding: with a fixed width
    (packed rows) it is one more document, with None it is masked.
    """
    if width is not None and all(len(row) == 1 and len(row[0]) == width + 1 for row in rows):
        whole = np.stack([row[0] for row in rows]).astype(np.int64)
        return Batch(whole[:, :-1], whole[:, 1:])
    sizes = [sum(len(piece) - 1 for piece in row) for row in rows]
    shape = len(rows), max(sizes) if width is None else width
    inputs, targets = np.zeros(shape, np.int64), np.full(shape, NO_TARGET, np.int64)
    documents = np.empty(shape, np.int32)
    for b, row in enumerate(rows):
        t = 0
        for number, piece in enumerate(row):
            here = slice(t, t + len(piece) - 1)
            inputs[b, here], targets[b, here], documents[b, here] = piece[:-1], piece[1:], number
            t = here.stop
        documents[b, t:] = len(row)
    if width is None:
        return Batch(inputs, targets, padding_mask=targets != NO_TARGET)
    return Batch(inputs, targets, documents=documents)


def validation_batches(
    ids: Ids,
    *,
    batch_size: int,
    context_length: int,
    max_tokens: int = 0,
    layout: LayoutName = "windows",
    end_of_text: int = 0,
) -> Iterator[Batch]:
    """The same rows every time, at most about `max_tokens` targets (0: all).

    windows: side by side from the start. Else packed documents, for padded training too: the loss is the same.
    Raises DataError if not even one row is filled.
    """
    windows = (len(ids) - 1) // context_length
    if windows < 1 and (layout == "windows" or len(ids) < 2):
        raise DataError(
            f"the validation text has {len(ids):,} tokens, too few for --context-length {context_length}: "
            "raise --val-fraction, give more --data or a shorter context"
        )
    if layout == "windows":
        rows = Pieces.one_each(context_length * np.arange(windows), np.full(windows, context_length))
    else:
        documents = cut_long(find_documents(ids, end_of_text), context_length)
        rows = pack(documents, context_length, random.generator(0, "validation"))
    count = min(len(rows), max(1, max_tokens // context_length)) if max_tokens else len(rows)
    for first in range(0, count, batch_size):
        chosen = range(first, min(first + batch_size, count))
        yield assemble([[ids[a : a + n + 1] for a, n in rows.row(r)] for r in chosen], context_length)
