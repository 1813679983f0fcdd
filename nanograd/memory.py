"""Floor 5. How much memory and disk a run will need, told before it starts."""

import os
import shutil
from pathlib import Path

from nanograd.models import DecoderLMConfig, count_parameters

BYTES = 4  # of a float32
OTHER_FILES = 1e6  # tokenizer, settings, metrics and pictures of a run
PREPARING = 70e6  # what a run that prepares its text loads besides, gensim above all
AT_REST = 240e6  # Python, NumPy, Numba with its compiled code, matplotlib and the tokenizer
CHUNK = 1 << 23  # logits held at a time: kernels.cpu.loss.CHUNK, which only a compiler can import


def estimate_memory(config: DecoderLMConfig, batch_size: int, *, recompute_blocks: bool = False) -> float:
    """Bytes that training holds at its peak, on the CPU, once the text is prepared: what is there all the time, and
    either one micro-batch's activations or, in a large model, the copies made while it is saved.

    Counted from what each operation of the block keeps for its backward (see nanograd/kernels/cpu), in floats per
    token. The formulas alone (NANOGRAD_KERNELS=0) also keep attention's T × T weights and all logits.
    """
    C, T, V = config.d_model, config.context_length, config.vocab_size
    norms = 2 * 2 * C  # before and after each
    attention = 3 * C + C + config.n_heads  # queries, keys and values; the mixture; a number per head
    mlp = config.up_width  # what goes into the activation: what comes out is made again
    dropout = 2 * C if config.dropout else 0
    layer = batch_size * T * (norms + attention + mlp + dropout)
    head = 3 * V * C + min(CHUNK, batch_size * T * V)  # its gradient, two packed copies, a chunk of logits
    if recompute_blocks:
        activations = batch_size * T * (config.n_layers + 2) * C + max(layer, head)  # inputs, and one block at a time
    else:
        activations = batch_size * T * 2 * C + config.n_layers * layer + head
    weights = count_parameters(config)
    state = 4 * weights  # themselves, gradients, two moments
    saving = 3 * weights  # as bytes, as one file, and as that file on its way out of the safetensors library
    return AT_REST + BYTES * (state + max(activations, saving))


def check_memory(config: DecoderLMConfig, batch_size: int, device: str, *, recompute_blocks: bool = False) -> None:
    """Raise MemoryError if training on the CPU needs more than this machine has at all."""
    if device != "cpu" or not hasattr(os, "sysconf"):  # Windows doesn't tell
        return
    need = estimate_memory(config, batch_size, recompute_blocks=recompute_blocks)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > there:
        advice = "" if recompute_blocks else "give --recompute-blocks, or "
        raise MemoryError(
            f"this needs about {need / 1e9:,.1f} GB, the machine has {there / 1e9:,.1f} GB; "
            f"{advice}lower --batch-size, --context-length or --d-model"
        )


def check_disk(folder: Path, config: DecoderLMConfig) -> None:
    """Raise OSError unless `folder` can hold the weights twice: the old ones stay until the new ones are whole."""
    need = 2 * BYTES * count_parameters(config) + OTHER_FILES
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OSError(f"{folder} has {free / 1e6:,.1f} MB free, saving the model needs {need / 1e6:,.1f} MB")
