"""Floor 5. How much memory and disk a run will need, told before it starts."""

import shutil
from pathlib import Path

from nanograd.models import DecoderLMConfig, count_parameters

BYTES = 4  # of a float32
AT_REST = 150e6  # Python, NumPy, SciPy, matplotlib and the tokenizer


def estimate_memory(config: DecoderLMConfig, batch_size: int) -> float:
    """Bytes that training holds at its peak, on the CPU: parameters, optimizer and one micro-batch of activations.

    Counted from what each operation of the block saves for its backward (see nanograd/ops), in floats per token.
    """
    C, T, V = config.d_model, config.context_length, config.vocab_size
    F = config.hidden_width
    mlp = 2 * F + (F if config.activation == "gelu-tanh" else 0)  # pre-activation and activation; tanh is kept too
    residual = 4 * C  # the stream before and after each branch, as the norms and the additions see it
    attention = 2 * C + 3 * C + config.n_heads * T + C  # norm, q k v, probabilities, output
    dropout = 0 if config.dropout == 0 else 2 * C
    layers = config.n_layers * (residual + attention + mlp + dropout)
    logits = 3 * V  # logits, their gradient, one temporary
    state = 4 * count_parameters(config)  # weights, gradients, two moments
    return AT_REST + BYTES * (state + batch_size * T * (layers + logits))


def check_disk(folder: Path, config: DecoderLMConfig) -> None:
    """Raise OSError unless `folder` can hold the weights twice: the old ones stay until the new ones are whole."""
    need = 2 * BYTES * count_parameters(config)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OSError(f"{folder} has {free / 1e6:,.0f} MB free, saving the model needs {need / 1e6:,.0f} MB")
