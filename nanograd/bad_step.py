"""Floor 5. A step that was skipped, explained and kept: RUN/bad-step holds all that is needed to see it go bad again.

    bad_step.json       step, seed, numbers of its micro-batches, dropout calls and updates before it, what was found
    batches.safetensors its token ids and targets
    model.safetensors   the weights before it, which are those after it too
    config.toml         the settings

Three lines of Python repeat it:

    from pathlib import Path
    from nanograd.bad_step import replay
    print(replay(Path("runs/tiny/bad-step")))
"""

import logging
from pathlib import Path

import msgspec
import numpy as np

from nanograd import backend, kernels, terminal
from nanograd.config import from_preset, read_toml
from nanograd.data import Batch
from nanograd.diagnosis import first_bad_layer
from nanograd.io.arrays import read_arrays, write_arrays
from nanograd.io.checkpoint import WEIGHTS
from nanograd.models import DecoderLM
from nanograd.optim import FlatParameters
from nanograd.settings import PRESETS, TrainConfig
from nanograd.trainer import BadStep, Trainer
from pre_process.files import new_folder, write_atomic

log = logging.getLogger(__name__)

FOLDER, ABOUT, BATCHES = "bad-step", "bad_step.json", "batches.safetensors"


class About(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What bad_step.json holds."""

    step: int
    why: str
    found: str
    seed: int
    dropout_calls: int
    first_batch: int
    n_batches: int
    updates: int = 0


def explain(bad: BadStep, trainer: Trainer) -> str:
    """Which layer went bad first: costs as much as the step."""
    return first_bad_layer(trainer.model, bad.batches, bad.dropout_calls, trainer.config)


def keep(folder: Path, bad: BadStep, trainer: Trainer, *, found: str, settings: bytes) -> None:
    """Save it, if it is the first of a run or the one that ends it: each is as large as the model."""
    if folder.exists() and not trainer.guard.gives_up:
        return
    try:
        save(folder, bad, trainer, found=found, settings=settings)
    except OSError as error:
        log.warning("the bad step was not kept: %s", terminal.one_line(error))


def save(folder: Path, bad: BadStep, trainer: Trainer, *, found: str, settings: bytes) -> None:
    """Write the files above, settings as TOML, in place of an earlier step's. Raises OSError."""
    about = About(
        step=bad.step,
        why=bad.why,
        found=found,
        seed=trainer.config.seed,
        dropout_calls=bad.dropout_calls,
        first_batch=trainer.next_batch - len(bad.batches),
        n_batches=len(bad.batches),
        updates=trainer.optimizer.steps,
    )
    arrays = {f"{i}.{name}": x for i, batch in enumerate(bad.batches) for name, x in _given(batch).items()}
    with new_folder(folder, replace=True) as new:
        write_atomic(new / ABOUT, msgspec.json.format(msgspec.json.encode(about)) + b"\n")
        write_atomic(new / "config.toml", settings)
        write_arrays(new / BATCHES, arrays)
        with trainer.parameters.in_float32():
            write_arrays(new / WEIGHTS, trainer.model.state_dict())


def replay(folder: Path) -> str:
    """Take the step of such a folder again, but for the optimizer; what goes bad first, in words.

    Raises ValueError and OSError for a folder that is damaged, or something else.
    """
    about = _read_about(folder / ABOUT)
    config = from_preset(PRESETS, None, read_toml(folder / "config.toml"))
    backend.check_device(config.device)
    kernels.load(config.matmul_precision, device=config.device, attention_kernel=config.attention_kernel)
    arrays = read_arrays(folder / BATCHES)
    batches = [
        Batch(**{name: x for key, x in arrays.items() for i, _, name in [key.partition(".")] if i == str(number)})
        for number in range(about.n_batches)
    ]
    model = _model(folder, config, updates=about.updates)
    with np.errstate(over="ignore", invalid="ignore"):
        return first_bad_layer(model, batches, about.dropout_calls, config)


def _read_about(path: Path) -> About:
    try:
        return msgspec.json.decode(path.read_bytes(), type=About)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _given(batch: Batch) -> dict[str, np.ndarray]:
    return {name: x for name, x in batch._asdict().items() if x is not None}


def _model(folder: Path, config: TrainConfig, *, updates: int) -> DecoderLM:
    model = DecoderLM(config.model, seed=config.seed)
    model.load_state_dict(read_arrays(folder / WEIGHTS))
    model.recompute_blocks = config.recompute_blocks
    if config.freeze_embeddings:
        model.freeze_embeddings()
    model.to(config.device)
    if config.precision != "float32":
        FlatParameters(model, precision=config.precision, seed=config.seed).refresh(updates)
    return model
