"""Floor 5. One token's step of a model that writes: on a GPU always of one shape, so that it can be one CUDA graph.

The model looks at a window of context_length ids, filled up on the right with ids that nothing before them can see.
That is more arithmetic than the text so far needs, and less time: a short text's step is bound by its launches.
"""

import functools
import logging
from collections.abc import Callable, Sequence

import numpy as np

from nanograd import backend, ops
from nanograd.backend import Array
from nanograd.data.upload import Told, Upload
from nanograd.graph import CaptureRefusedError, Recorded
from nanograd.models import DecoderLM
from nanograd.tensor import Tensor, no_grad

log = logging.getLogger(__name__)

Reader = Callable[[Sequence[int]], np.ndarray]  # ids so far → logits (V,) of the next one, on the host


def reader(model: DecoderLM) -> Reader:
    """The quickest way to read a text that grows; dynamic rotary scaling has to see how long the text really is."""
    if model.tokens.weight.device == "cpu" or model.config.rotary_scaling == "dynamic":
        return functools.partial(last_logits, model)
    return RecordedReader(model)


def last_logits(model: DecoderLM, ids: Sequence[int]) -> np.ndarray:
    """Logits (V,) of the token that follows `ids`, on the host."""
    window = np.array([ids[-model.config.context_length :]], np.int64)
    with no_grad():
        logits = model(backend.to_device(window, model.tokens.weight.device))
    row: np.ndarray = backend.to_host(logits.data[0, -1])
    return row


class RecordedReader:
    """The same on a GPU, one launch for each token once two were read; all on a stream of its own."""

    def __init__(self, model: DecoderLM) -> None:
        self.model, self.length = model, model.config.context_length
        xp = self.xp = backend.array_module(model.tokens.weight.data)
        self.stream = xp.cuda.Stream(non_blocking=True)
        with self.stream:
            self.upload, self.told = Upload(xp), Told(xp, model.config.vocab_size)
            self.logits = xp.zeros(model.config.vocab_size, np.float64)
        self.graph: Recorded | None = Recorded(xp, xp.cuda.MemoryPool())
        self.places: dict[str, Array] | None = None

    def __call__(self, ids: Sequence[int]) -> np.ndarray:
        """Logits (V,) of the token that follows `ids`."""
        shown = ids[-self.length :]
        window = np.zeros((1, self.length), np.int64)
        window[0, : len(shown)] = shown
        self.stream.wait_event(self.xp.cuda.get_current_stream().record())  # behind what has made the weights
        with self.stream, no_grad():
            self.places = self.upload.send({"ids": window, "last": np.array([len(shown) - 1])}, into=self.places)
            self._read(self.places)
            answer = self.told.tell(self.logits)
            answer.arrived.synchronize()  # whoever draws the next token has to see them: the one wait
            return answer.pinned.copy()

    def _read(self, places: dict[str, Array]) -> None:
        if self.graph is not None:
            try:
                self.graph(lambda: self._forward(places))
                return
            except CaptureRefusedError as refused:
                log.warning("reading can't be recorded as a CUDA graph, and goes on launch by launch: %s", refused)
                self.graph = None
        self._forward(places)

    def _forward(self, places: dict[str, Array]) -> None:
        hidden: Tensor = self.model.hidden(places["ids"])  # (1, T, C)
        row = ops.embedding(hidden.reshape(self.length, -1), places["last"])  # (1, C)
        self.logits[...] = self.model.head(row).data.reshape(-1)
