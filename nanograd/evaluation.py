"""Floor 5. How well a model predicts a text: one formula, for the loss of batches and for that of each document."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from nanograd import backend, ops
from nanograd.backend import Array
from nanograd.data import Batch
from nanograd.data.documents import Document
from nanograd.models import DecoderLM
from nanograd.tensor import Tensor, no_grad

BLOCK = 1 << 20  # tokens of documents whose windows are sorted by length together


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a text costs a model. Every token of every document counts once, and so does the end of each."""

    documents: int
    tokens: int
    bytes: int
    loss: float
    """nats per token"""
    perplexity: float
    """e to the loss: as unsure as if it had to choose among so many tokens"""
    bits_per_byte: float
    """of UTF-8 text, whatever the tokenizer makes of it: comparable between models"""


class DocumentLoss(msgspec.Struct, frozen=True, kw_only=True):
    """What one document costs."""

    number: int
    beginning: str
    tokens: int
    bytes: int
    nats: float

    loss = property(lambda self: self.nats / self.tokens)
    bits_per_byte = property(lambda self: self.nats / math.log(2) / max(1, self.bytes))


class Window(NamedTuple):
    """Inputs start … stop − 1 of a document; the targets of those from `scored` on count, the rest is context."""

    document: int
    start: int
    stop: int
    scored: int


def mean_loss(model: DecoderLM, batches: Iterable[Batch], device: str) -> float:
    """Mean cross-entropy in nats per token over `batches`, dropout off, no smoothing."""
    total, count = 0.0, 0
    with _evaluating(model):
        for batch in batches:
            given = batch.on(device)
            targets = given.pop("targets")
            total += summed_loss(model, model.hidden(**given), targets, batch.n_targets)
            count += batch.n_targets
    return total / count


def summed_loss(model: DecoderLM, hidden: Tensor, targets: Array, n_targets: int) -> float:
    """−Σ ln p(target) over the targets (…) that count, from what the output layer sees (…, C): THE formula."""
    return float(ops.linear_cross_entropy(hidden, model.head.weight, model.head.bias, targets).item()) * n_targets


def document_losses(
    model: DecoderLM,
    documents: Iterable[Document],
    *,
    end_of_text: int,
    batch_size: int = 8,
    stride: int = 0,
    device: str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> Iterator[DocumentLoss]:
    """The loss of each document by itself: the model sees an end-of-text first, and must foresee the one at the end.

    A document longer than the context T is read in windows of T. With stride 0 they lie side by side; else they begin
    every `stride` tokens, and what an earlier window has scored is only context. Windows of about the same length share
    a batch, but each row is summed alone: batch_size changes the last digits at most, and a second pass nothing.
    progress gets the bytes that a batch has done.
    """
    T, number = model.config.context_length, 0
    for block in _blocks(documents):
        ids = [np.array([end_of_text, *document.ids, end_of_text], np.int64) for document in block]
        windows = [window for d, row in enumerate(ids) for window in cut(d, len(row) - 1, T, stride or T)]
        windows.sort(key=lambda window: window.start - window.stop)  # the longest first
        nats = [0.0] * len(block)
        with _evaluating(model):
            for first in range(0, len(windows), batch_size):
                rows = windows[first : first + batch_size]
                for window, cost in zip(rows, _nats(model, ids, rows, device), strict=True):
                    nats[window.document] += cost
                if progress:
                    progress(sum(_bytes(block[w.document], w) for w in rows))
        for document, cost in zip(block, nats, strict=True):
            yield DocumentLoss(
                number=number,
                beginning=document.beginning,
                tokens=len(document.ids) + 1,
                bytes=document.n_bytes,
                nats=cost,
            )
            number += 1


def check_stride(stride: int, context_length: int) -> None:
    """Raise ValueError if tokens between two windows would be left out."""
    if not 0 <= stride <= context_length:
        raise ValueError(
            f"--stride is {stride}, but windows of {context_length} tokens begin every 1 to {context_length} tokens"
        )


def cut(document: int, n_inputs: int, width: int, stride: int) -> Iterator[Window]:
    """Windows of at most `width` inputs, one every `stride`, which together score every input once."""
    scored = 0
    for start in range(0, n_inputs, stride):
        stop = min(start + width, n_inputs)
        yield Window(document, start, stop, scored)
        if stop == n_inputs:
            return
        scored = stop


def _blocks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents in lists of BLOCK tokens, but for what the last one adds."""
    block, size = list[Document](), 0
    for document in documents:
        block.append(document)
        size += len(document.ids)
        if size >= BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def _nats(model: DecoderLM, ids: Sequence[np.ndarray], rows: Sequence[Window], device: str) -> Iterator[float]:
    """What each window's scored targets cost. What is filled up on the right is later than all that counts."""
    inputs = np.zeros((len(rows), max(window.stop - window.start for window in rows)), np.int64)
    for b, (document, start, stop, _) in enumerate(rows):
        inputs[b, : stop - start] = ids[document][start:stop]
    hidden = model.hidden(backend.to_device(inputs, device))  # (B, T, C)
    for b, (document, start, stop, scored) in enumerate(rows):
        targets = ids[document][scored + 1 : stop + 1]
        counted = hidden[b, scored - start : stop - start]
        yield summed_loss(model, counted, backend.to_device(targets, device), len(targets))


def _bytes(document: Document, window: Window) -> float:
    """A window's share of its document."""
    return document.n_bytes * (window.stop - window.scored) / (len(document.ids) + 1)


def figures(losses: Sequence[DocumentLoss], n_bytes: int) -> Figures:
    """All documents together; `n_bytes` of UTF-8 had their texts. Raises ValueError if the loss is no number."""
    tokens, nats = sum(loss.tokens for loss in losses), math.fsum(loss.nats for loss in losses)
    if not math.isfinite(nats):
        raise ValueError(f"the loss is {nats}: the model's weights hold infinities or NaNs, or lead to them")
    mean = nats / tokens
    return Figures(
        documents=len(losses),
        tokens=tokens,
        bytes=n_bytes,
        loss=mean,
        perplexity=math.exp(min(mean, 700.0)),  # more than that no float can say
        bits_per_byte=nats / math.log(2) / n_bytes,
    )


@contextlib.contextmanager
def _evaluating(model: DecoderLM) -> Iterator[None]:
    """No dropout and no graph inside the block."""
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            yield
    finally:
        model.train(was_training)
