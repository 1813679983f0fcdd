"""Floor 5. How much memory and disk a run will need, told before it starts."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from nanograd.models import DecoderLMConfig, count_parameters
from nanograd.optim_settings import OptimConfig

BYTES = 4  # of a float32
OTHER_FILES = 1e6  # tokenizer, settings, metrics and pictures of a run
AT_START = 120e6  # Python, NumPy, Numba, the tokenizer
RUNNING = 110e6  # compiled code, threads' stacks, matplotlib, and what checkpoints and samples fragment
PREPARING = 65e6  # half of what a run that prepares its text leaves behind: the other half is used again
WORD_VECTORS = 80e6  # the same of word2vec
CHUNK = 1 << 23  # logits held at a time: kernels.cpu.loss.CHUNK, which only a compiler can import

DEFAULT_OPTIM = OptimConfig()


class MemoryPlan(NamedTuple):
    """Bytes that training holds at its peak, on the CPU, and what for."""

    program: float  # code, libraries and what preparing the text has left
    state: float  # weights, gradients, moments
    activations: float  # of one micro-batch, with the logits
    snapshot: float  # what a checkpoint is written from while training goes on

    @property
    def total(self) -> float:
        """All of them at once."""
        return sum(self)

    def __str__(self) -> str:
        parts = zip(self, ("program", "weights and optimizer", "activations", "a checkpoint's copy"), strict=True)
        return f"about {self.total / 1e6:,.0f} MB: " + ", ".join(f"{size / 1e6:,.0f} {name}" for size, name in parts)


def plan_memory(
    config: DecoderLMConfig,
    batch_size: int,
    *,
    recompute_blocks: bool = False,
    optim: OptimConfig = DEFAULT_OPTIM,
    left_behind: float = 0.0,
) -> MemoryPlan:
    """What training will need. Within a tenth of the peak once a few checkpoints are written (tests: pytest -m slow).

    left_behind  bytes that preparing the text adds
    Counted from what each operation of the block keeps for its backward (see nanograd/kernels/cpu), in floats per
    token. The formulas alone (NANOGRAD_KERNELS=0) also keep attention's T × T weights and all logits.
    """
    C, V, n_tokens = config.d_model, config.vocab_size, batch_size * config.context_length
    norms = 2 * 2 * C + 2 * C * (not config.norm_divides)  # before and after each; what dyt and derf have squashed
    attention = 3 * C + C + config.n_heads  # queries, keys and values; the mixture; a number per head
    attention += (3 * C + 2 * config.n_heads) * config.qk_norm  # what they were before; a number per head and each
    mlp = config.up_width  # what goes into the activation: what comes out is made again
    dropout = 2 * C if config.dropout else 0
    layer = n_tokens * (norms + attention + mlp + dropout)
    head = 3 * V * C + min(CHUNK, n_tokens * V)  # its gradient, two packed copies, a chunk of logits
    backward = n_tokens * 2 * config.up_width  # in one block: the gradient inside the MLP, the activation made again
    kept = n_tokens * (config.n_layers + 2) * C + layer if recompute_blocks else config.n_layers * layer
    weights, moments = count_parameters(config), count_moments(config, optim)
    average = weights if optim.ema_decay else 0
    gradients = V * C if optim.fuse_optimizer else weights  # fused: one at a time, but tied embeddings wait to the end
    return MemoryPlan(
        program=AT_START + RUNNING + left_behind,
        state=BYTES * (weights + gradients + moments + average),
        activations=BYTES * (kept + 2 * n_tokens * C + head + backward),
        snapshot=BYTES * (weights + moments + 2 * average),
    )


def estimate_memory(
    config: DecoderLMConfig, batch_size: int, *, recompute_blocks: bool = False, optim: OptimConfig = DEFAULT_OPTIM
) -> float:
    """Bytes at the peak of a run whose text is prepared already."""
    return plan_memory(config, batch_size, recompute_blocks=recompute_blocks, optim=optim).total


def left_behind() -> float:
    """What preparing the text adds to the peak, judged from what this process holds now; 0 where none can tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux
        return 0.0
    return max(0.0, pages * os.sysconf("SC_PAGE_SIZE") - AT_START) / 2


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
