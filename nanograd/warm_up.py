"""Floor 6. Compile the kernels that a run needs, by taking a small step.

    python -m nanograd.warm_up KIND PART

KIND is JSON of a `Kind`, PART one of nanograd.kernels.compilation.PARTS. The process ends when its standard input does:
whoever starts it holds the other end, so no compiler outlives the run that it works for, however that ends.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

import msgspec
import numpy as np

from nanograd import backend, kernels, terminal
from nanograd.data import LayoutName
from nanograd.kernels.compilation import PARTS, note_compiled
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.optim import FlatParameters, clip_grad_norm
from nanograd.optim_settings import OptimConfig, make_optimizer
from nanograd.settings import MatmulPrecision, TrainConfig
from nanograd.tensor import no_grad


class Kind(msgspec.Struct, frozen=True):
    """What decides which kernels a run needs. A kernel that is missing here is compiled inside the run, which then
    differs in last bits from the same run on the next day: Numba optimises code that it reads from disk otherwise."""

    model: DecoderLMConfig
    optim: OptimConfig
    matmul_precision: MatmulPrecision
    layout: LayoutName


def warm_up(kind: Kind, part: str) -> None:
    """One training step and one evaluation of a model with one block: the kernels of `part` are compiled and kept.

    Packed texts, and validation of padded ones, want attention to know documents: to Numba that is another kernel.
    """
    kernels.load(kind.matmul_precision if "gemm" in PARTS[part] else None, part=part)
    model = DecoderLM(msgspec.structs.replace(kind.model, n_layers=1))
    ids = np.zeros((2, kind.model.context_length), np.int64)
    packed = {} if kind.layout == "windows" else {"documents": np.zeros(ids.shape, np.int32)}
    model.loss(ids, ids, **(packed if kind.layout == "packed" else {})).backward()
    if "optim" in PARTS[part]:
        _step(kind.optim)
    with no_grad():
        model.eval().loss(ids, ids, **packed)


def _step(optim: OptimConfig) -> None:
    """Of the optimizer, on a model of its own: few parameters would be left to the formulas, and this kind of run then
    be marked as compiled for larger models too."""
    model = DecoderLM(DecoderLMConfig(n_layers=1))
    flat = FlatParameters(model)
    clip_grad_norm(flat, 1.0)
    make_optimizer(optim, flat, model.hidden_matrices()).step(0.0)


@contextlib.contextmanager
def compiled_kernels(config: TrainConfig) -> Iterator[None]:
    """Compile the kernels beside what the block does, if this machine has not done so before; then load them.

    Those of a GPU are compiled one by one, when they are first launched.
    """
    if config.device != "cpu" or not backend.kernels_allowed():
        kernels.load(config.matmul_precision, device=config.device, attention_kernel=config.attention_kernel)
        yield
        return
    kind = Kind(config.model, config.optim, config.matmul_precision, config.loader.layout)
    compiler = kernels.compile_elsewhere(msgspec.json.encode(kind).decode())
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
    _, kind, part = sys.argv
    warm_up(msgspec.json.decode(kind, type=Kind), part)
    note_compiled(part, kind)
