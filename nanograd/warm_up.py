"""Floor 6. Compile the kernels that a run needs, by taking a small step.

    python -m nanograd.warm_up SETTINGS bf16 PART LAYOUT

PART is one of nanograd.kernels.compilation.PARTS, LAYOUT the loader's. The process ends when its standard input does:
whoever starts it holds the other end, so no compiler outlives the run that it works for, however that ends.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Literal

import msgspec
import numpy as np

from nanograd import backend, kernels, terminal
from nanograd.kernels.compilation import PARTS, note_compiled
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.optim import AdamW, FlatParameters, clip_grad_norm
from nanograd.settings import TrainConfig
from nanograd.tensor import no_grad


def warm_up(config: DecoderLMConfig, matmul_precision: Literal["float32", "bf16"], part: str, layout: str) -> None:
    """One training step and one evaluation of a model with one block: the kernels of `part` are compiled and kept.

    Packed texts, and validation of padded ones, want attention to know documents: to Numba that is another kernel.
    """
    kernels.load(matmul_precision if "gemm" in PARTS[part] else None, part=part)
    model = DecoderLM(msgspec.structs.replace(config, n_layers=1))
    flat = FlatParameters(model)
    ids = np.zeros((2, config.context_length), np.int64)
    packed = {} if layout == "windows" else {"documents": np.zeros(ids.shape, np.int32)}
    model.loss(ids, ids, **(packed if layout == "packed" else {})).backward()
    if "optim" in PARTS[part]:
        clip_grad_norm(flat, 1.0)
        AdamW(flat).step(0.0)
    with no_grad():
        model.eval().loss(ids, ids, **packed)


@contextlib.contextmanager
def compiled_kernels(config: TrainConfig) -> Iterator[None]:
    """Compile the kernels beside what the block does, if this machine has not done so before; then load them."""
    if config.device != "cpu" or not backend.kernels_allowed():
        yield
        return
    settings = msgspec.json.encode(config.model).decode()
    compiler = kernels.compile_elsewhere(settings, config.matmul_precision, layout=config.loader.layout)
    try:
        yield
        if compiler is not None:
            with terminal.progress_bar("compiling kernels (on the first start only)"):
                compiler.wait()
    finally:
        if compiler is not None:
            compiler.kill()
    kernels.load(config.matmul_precision)


def _end_with_standard_input() -> None:
    os.read(0, 1)  # not sys.stdin, whose lock this thread would hold when Python wants to end
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    _, settings, precision, part, layout = sys.argv
    warm_up(
        msgspec.json.decode(settings, type=DecoderLMConfig),
        msgspec.convert(precision, Literal["float32", "bf16"]),
        part,
        layout,
    )
    note_compiled(part, settings, precision, layout)
