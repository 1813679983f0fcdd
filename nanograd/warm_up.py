"""Floor 6. Compile the kernels that a run needs, by taking one small step: python -m nanograd.warm_up SETTINGS bf16"""

import sys
from typing import Literal

import msgspec
import numpy as np

from nanograd import kernels
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.optim import AdamW, FlatParameters, clip_grad_norm
from nanograd.tensor import no_grad


def warm_up(config: DecoderLMConfig, matmul_precision: Literal["float32", "bf16"]) -> None:
    """One training step and one evaluation of a model with one block: every kernel is compiled and kept on disk."""
    kernels.load(matmul_precision)
    model = DecoderLM(msgspec.structs.replace(config, n_layers=1))
    flat = FlatParameters(model)
    optimizer = AdamW(flat)
    ids = np.zeros((2, config.context_length), np.int64)
    model.loss(ids, ids).backward()
    clip_grad_norm(flat, 1.0)
    optimizer.step(0.0)
    with no_grad():
        model.eval().loss(ids, ids)
    kernels.note_compiled(matmul_precision)


if __name__ == "__main__":
    warm_up(
        msgspec.json.decode(sys.argv[1], type=DecoderLMConfig), msgspec.convert(sys.argv[2], Literal["float32", "bf16"])
    )
