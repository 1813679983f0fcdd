"""Floor 5. When a training run is saved, and what of it: --checkpoint-every, --checkpoint-minutes, --keep-every."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from nanograd.config import to_toml
from nanograd.io.checkpoint import publish_weights, save_tokenizer
from nanograd.io.checkpoint_writer import CheckpointWriter
from nanograd.io.training_state import Arrays, Snapshot, TrainingState, environment
from nanograd.prepare import Prepared
from nanograd.resume import Earlier
from nanograd.settings import TrainConfig
from nanograd.trainer import Trainer
from pre_process.files import write_atomic

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a run has come, as far as its trainer does not know.

    record             of the last step: its line of metrics.jsonl
    is_recorded        False: a signal came before its validation loss was known
    val_loss           the last one measured; best_val_loss: the lowest
    stale_evaluations  regular ones since the best
    """

    record: dict[str, Any] = field(default_factory=lambda: {"step": 0, "seconds": 0.0})
    is_recorded: bool = True
    val_loss: float | None = None
    best_val_loss: float | None = None
    stale_evaluations: int = 0

    @property
    def step(self) -> int:
        """The last one taken; 0: none yet."""
        return int(self.record["step"])

    def add_validation(self, loss: float, *, regular: bool) -> bool:
        """Note the loss that was measured after this step. True if no earlier model was as good."""
        improved = loss < (float("inf") if self.best_val_loss is None else self.best_val_loss)
        self.val_loss = loss
        self.best_val_loss = loss if improved else self.best_val_loss
        self.stale_evaluations = 0 if improved else self.stale_evaluations + regular
        return improved


class Saving:
    """Takes a run's snapshots, and has them written beside whatever follows."""

    def __init__(self, config: TrainConfig, prepared: Prepared, out: Path, trainer: Trainer) -> None:
        self.config, self.prepared, self.out, self.trainer = config, prepared, out, trainer
        self.step = 0  # of the last snapshot
        self._seconds = 0.0  # into the run when it was taken
        self._arrays: Arrays | None = None  # what it holds: the next one is copied into the same memory

    def restore(self, earlier: Earlier) -> Progress:
        """Become what the checkpoint holds. Raises ValueError if it belongs to another model or optimizer."""
        state = earlier.state
        self.trainer.restore(earlier.checkpoint, state)
        publish_weights(earlier.checkpoint, self.out)  # as they may be of a later step, or not yet there
        self.step, self._seconds = state.step, state.record["seconds"]
        log.warning("going on after step %d of %s", state.step, earlier.run)
        return Progress(
            record=state.record,
            is_recorded=state.is_recorded,
            val_loss=state.val_loss,
            best_val_loss=state.best_val_loss,
            stale_evaluations=state.stale_evaluations,
        )

    def writer(self, step: int) -> CheckpointWriter:
        """The one that writes beside training, which begins after this step."""
        return CheckpointWriter(
            self.out,
            keep=self.config.keep,
            keep_every=self.config.keep_every,
            on_error=self.config.on_save_error,
            data_sha256=self.prepared.data_sha256(),
            tokenizer_sha256=self.prepared.manifest.tokenizer_sha256,
            saved_step=step,
        )

    def is_due(self, step: int, seconds: float) -> bool:
        """Whether the settings want a checkpoint of this step, `seconds` into the run."""
        config, limit = self.config, 60 * self.config.checkpoint_minutes
        regular = step % (config.checkpoint_every or config.eval_every) == 0
        for_good = bool(config.keep_every) and step % config.keep_every == 0
        return regular or for_good or 0 < limit <= seconds - self._seconds

    def save(self, writer: CheckpointWriter, progress: Progress, *, metrics_bytes: int, seconds: float) -> None:
        """Have a checkpoint written of how things are now: only the copy is waited for, unless one is being written."""
        writer.wait()
        trainer = self.trainer
        state = TrainingState(
            step=progress.step,
            tokens=trainer.tokens,
            record=progress.record.copy(),
            is_recorded=progress.is_recorded,
            seed=self.config.seed,
            dropout_calls=trainer.model.dropout_keys.calls,
            next_batch=trainer.next_batch,
            metrics_bytes=metrics_bytes,
            val_loss=progress.val_loss,
            best_val_loss=progress.best_val_loss,
            stale_evaluations=progress.stale_evaluations,
            guard=trainer.guard.state,
            loss_scale=trainer.loss_scale.state,
            made_with=environment(),
        )
        self._arrays = trainer.snapshot(self._arrays)  # in the same memory: a new copy would lie beside a step
        writer.save(Snapshot(self._arrays, state, self.write_settings))
        self.step, self._seconds = state.step, seconds

    def write_settings(self, folder: Path) -> None:
        """What a run folder and each of its checkpoints hold besides numbers. Raises OSError."""
        write_atomic(folder / "config.toml", self.settings())
        save_tokenizer(folder, self.config.model, self.prepared.tokenizer)

    def settings(self) -> bytes:
        """As TOML, without what belongs to one start of the program only: a repeat gets a folder of its own."""
        once = {"config": None, "out": None, "profile": None, "resume": None, "resume_changed": False, "pause_at": None}
        return to_toml(msgspec.structs.replace(self.config, **once)).encode()
