"""Floor 5. Everything besides weights and optimizer that a run needs in order to go on as if it had never stopped."""

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from nanograd.guard import GuardState
from nanograd.io.arrays import write_arrays
from nanograd.io.checkpoint import CheckpointError
from nanograd.loss_scale import LossScaleState
from pre_process.files import write_atomic

OPTIMIZER, RAW_WEIGHTS, STATE = "optimizer.safetensors", "weights.safetensors", "state.json"

Arrays = dict[str, dict[str, np.ndarray]]  # file name → array name → array


class TrainingState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What state.json holds.

    The learning rate is a function of `step`, a batch of `seed` and `next_batch`, a dropout mask of `seed` and the
    number of its call: so these few numbers are the state of the schedule, of the loader and of every random stream.

    record         the step's line of metrics.jsonl
    is_recorded    False: a signal cut its evaluation short, so it is not in metrics.jsonl yet, and is evaluated again
    metrics_bytes  length of metrics.jsonl
    val_loss       the last one measured; best_val_loss: the lowest; stale_evaluations: how many
                   --patience counts since that one
    guard          steps that were skipped, and what the next one is measured by; loss_scale: for fp16
    """

    step: int
    tokens: int
    record: dict[str, Any]
    is_recorded: bool
    seed: int
    dropout_calls: int
    next_batch: int
    metrics_bytes: int
    val_loss: float | None
    best_val_loss: float | None
    stale_evaluations: int = 0
    made_with: dict[str, str | int]
    guard: GuardState = GuardState()
    loss_scale: LossScaleState = LossScaleState()


@dataclass(frozen=True)
class Snapshot:
    """A copy of all that a checkpoint holds: training goes on while it is written. `extras` writes the small files."""

    arrays: Arrays
    state: TrainingState
    extras: Callable[[Path], None]

    @property
    def nbytes(self) -> int:
        """Of the arrays."""
        return sum(array.nbytes for arrays in self.arrays.values() for array in arrays.values())

    def write(self, folder: Path) -> None:
        """Fill the folder of a checkpoint. Raises OSError."""
        for name, arrays in self.arrays.items():
            write_arrays(folder / name, arrays)
        write_atomic(folder / STATE, msgspec.json.format(msgspec.json.encode(self.state)) + b"\n")
        self.extras(folder)


def read_state(folder: Path) -> TrainingState:
    """Of a checkpoint whose manifest has been checked. Raises CheckpointError for what another version wrote."""
    path = folder / STATE
    try:
        return msgspec.json.decode(path.read_bytes(), type=TrainingState)
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path} does not fit this nanograd: {error}") from None


def environment() -> dict[str, str | int]:
    """What the last bits of a result may depend on besides the settings."""
    numba = sys.modules.get("numba")  # its kernels are loaded by now, or not wanted
    threads = numba.get_num_threads() if numba else os.cpu_count() or 1
    return {"threads": threads, "machine": platform.machine(), "numpy": np.__version__}
