"""Floor 5. How much memory and disk a run will need, told before it starts."""

import os
import shutil
from pathlib import Path

from nanograd.models import DecoderLMConfig, count_parameters
from nanograd.optim_settings import OptimConfig

BYTES = 4  # of a float32
OTHER_FILES = 1e6  # tokenizer, settings, metrics and pictures of a run
PREPARING = 70e6  # what a run that prepares its text loads besides, gensim above all
AT_REST = 240e6  # Python, NumPy, Numba with its compiled code, matplotlib and the tokenizer
CHUNK = 1 << 23  # logits held at a time: kernels.cpu.loss.CHUNK, which only a compiler can import


DEFAULT_OPTIM = OptimConfig()


def estimate_memory(
    config: DecoderLMConfig, batch_size: int, *, recompute_blocks: bool = False, optim: OptimConfig = DEFAULT_OPTIM
) -> float:
    """Bytes that training holds at its peak, on the CPU, once the text is prepared: what is there all the time, one
    micro-batch's activations, and the copy that a checkpoint is written from.

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
    weights, moments = count_parameters(config), count_moments(config, optim)
    average = weights if optim.ema_decay else 0
    gradients = V * C if optim.fuse_optimizer else weights  # fused: one at a time, but tied embeddings wait to the end
    state = weights + gradients + moments + average
    snapshot = weights + moments + 2 * average  # it is written to disk while training goes on
    return AT_REST + BYTES * (state + activations + snapshot)


def count_moments(config: DecoderLMConfig, optim: OptimConfig) -> float:
    """How many numbers the optimizer remembers from step to step, beside a mean of the weights."""
    weights, C = count_parameters(config), config.d_model
    if optim.optimizer == "adafactor":
        return 3 * config.vocab_size * C  # a row and a column for each matrix are nothing beside its temporaries
    if optim.optimizer == "muon":  # one number for each weight of the blocks' matrices, two for the others
        return 2 * weights - config.n_layers * (4 * C * C + (config.up_width + config.hidden_width) * C)
    if optim.optimizer == "sgd":
        return 0 if optim.momentum == 0 else weights
    return weights if optim.optimizer == "lion" else 2 * weights


def check_memory(
    config: DecoderLMConfig,
    batch_size: int,
    device: str,
    *,
    recompute_blocks: bool = False,
    optim: OptimConfig = DEFAULT_OPTIM,
) -> None:
    """Raise MemoryError if training on the CPU needs more than this machine has at all."""
    if device != "cpu" or not hasattr(os, "sysconf"):  # Windows doesn't tell
        return
    need = estimate_memory(config, batch_size, recompute_blocks=recompute_blocks, optim=optim)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > there:
        advice = "" if recompute_blocks else "give --recompute-blocks, or "
        raise MemoryError(
            f"this needs about {need / 1e9:,.1f} GB, the machine has {there / 1e9:,.1f} GB; "
            f"{advice}lower --batch-size, --context-length or --d-model"
        )


def check_disk(run: Path, checkpoint_bytes: int, *, keep: int) -> None:
    """Raise OSError unless `run` can hold its checkpoints: those kept, the best one, and one that is being written.

    checkpoint_bytes  of weights and optimizer state
    """
    copies = keep + 2
    need = copies * checkpoint_bytes + OTHER_FILES - sum(f.stat().st_size for f in run.glob("checkpoints/*/*"))
    free = shutil.disk_usage(run).free
    if free < need:
        raise OSError(
            f"{run} has {free / 1e6:,.1f} MB free, {copies} checkpoints of {checkpoint_bytes / 1e6:,.1f} MB need "
            f"{need / 1e6:,.1f} MB"
        )
