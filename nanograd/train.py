"""Floor 6. Train a decoder language model: python -m nanograd.train

With no flags: the embedded Wikipedia excerpt, a small decoder, about three minutes on two cores. The run folder then
holds the model, its tokenizer, metrics.jsonl and loss.png; `python -m nanograd.sample RUN` continues any text with it.
"""

import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from nanograd import backend, bad_step, kernels, terminal, watch
from nanograd.alerts import Alerts
from nanograd.config import ConfigError, from_command_line, peek, to_toml
from nanograd.display import TrainingDisplay
from nanograd.evaluation import mean_loss
from nanograd.event_file import EventFile, check_installed
from nanograd.guard import DivergedError
from nanograd.io.checkpoint import publish_weights, save_tokenizer
from nanograd.io.checkpoint_writer import CheckpointWriter
from nanograd.io.metrics_file import MetricsFile
from nanograd.io.run_checkpoints import best_checkpoint
from nanograd.io.run_folder import run_folder
from nanograd.io.training_state import Arrays, Snapshot, TrainingState, environment
from nanograd.memory import check_disk
from nanograd.mixing import prepare_all
from nanograd.plot import draw_loss, read_metrics
from nanograd.prepare import Prepared
from nanograd.profile import FirstSteps, check_trace_path
from nanograd.resume import Earlier, check_data, check_settings, earlier_run
from nanograd.settings import PRESETS, TrainConfig, check_cuda_graph, check_frozen, check_precision
from nanograd.train_report import announce_memory, describe, summarize
from nanograd.trainer import BadStep, Trainer
from nanograd.warm_up import compiled_kernels
from pre_process.files import write_atomic

log = logging.getLogger(__name__)
ABOUT = (__doc__ or "").removeprefix("Floor 6. ")
BARE = {"--profile": "", "--resume": "newest"}  # what these flags mean without a value


def main(argv: Sequence[str] | None = None) -> int:
    """Parse settings, prepare text, train, save. Returns the exit code; raises ValueError and OSError on bad input."""
    terminal.configure_logging()
    asked = peek(argv, "resume", "out", bare=BARE)
    with terminal.save_requests_ignored(), earlier_run(asked["resume"], asked["out"]) as earlier:
        base = None if earlier is None else earlier.config
        config = from_command_line(PRESETS, argv, prog="python -m nanograd.train", about=ABOUT, bare=BARE, base=base)
        config = msgspec.structs.replace(config, optim=config.optim.resolved(accumulate=config.accumulate))
        check_frozen(config)
        check_precision(config)
        if config.resume and asked["resume"] is None:
            raise ConfigError("--resume belongs on the command line: a file of settings makes any number of runs")
        config = msgspec.structs.replace(config, device=terminal.chosen_device(config.device))
        check_cuda_graph(config)
        kernels.check_matmul_precision(config.matmul_precision, config.device)
        kernels.check_attention_kernel(config.attention_kernel, config.device)
        if config.tensorboard:
            check_installed()
        backend.keep_freed_memory()
        if config.dry_run:
            describe(config)
            return 0
        if earlier is None:
            with run_folder(config.out, preset=config.preset) as out:
                return run(config, out)
        check_settings(earlier, config)
        return run(config, earlier.run, earlier)


def run(config: TrainConfig, out: Path, earlier: Earlier | None = None) -> int:
    """Prepare text and train in the folder `out`, from the start or from where an earlier run has come."""
    terminal.configure_logging(out / "train.log")
    check_trace_path(config.profile)  # it may lie in the run folder
    needed = config if earlier is None else msgspec.structs.replace(config, init="random")  # the checkpoint has them
    with compiled_kernels(config):
        prepared = prepare_all(needed, terminal.progress_bar)
    announce_memory(config)
    training = Run(config, prepared, out)
    if earlier is not None:
        check_data(earlier, prepared, config)
        training.restore(earlier)
    return training.train()


class Run:
    """One training run: what it reads, what it changes, what it writes."""

    def __init__(self, config: TrainConfig, prepared: Prepared, out: Path) -> None:
        self.config, self.prepared, self.out = config, prepared, out
        self.trainer = Trainer(config, prepared)
        check_disk(out, self.trainer.nbytes(), keep=config.keep)
        self.val_loss: float | None = None  # the last one measured
        self.best_val_loss: float | None = None
        self.stale_evaluations = 0  # regular ones since then
        self.record: dict[str, Any] = {"step": 0, "seconds": 0.0}  # of the last step
        self.is_recorded = True  # False: a signal came before its validation loss was known
        self.metrics_bytes = self.snapshot_step = 0
        self.snapshot: Arrays | None = None  # of the last checkpoint: what the next one is copied into
        self.snapshot_seconds = 0.0  # when it was taken

    def restore(self, earlier: Earlier) -> None:
        """Become what the checkpoint holds. Raises ValueError if it belongs to another model or optimizer."""
        self.trainer.restore(earlier.checkpoint, earlier.state)
        publish_weights(earlier.checkpoint, self.out)  # as they may be of a later step, or not yet there
        state = earlier.state
        self.val_loss, self.best_val_loss = state.val_loss, state.best_val_loss
        self.stale_evaluations = state.stale_evaluations
        self.record, self.is_recorded = state.record, state.is_recorded
        self.metrics_bytes, self.snapshot_step = state.metrics_bytes, state.step
        self.snapshot_seconds = self.record["seconds"]
        log.warning("going on after step %d of %s", state.step, earlier.run)

    def train(self) -> int:
        """The loop. Returns 0, or 128 + signal number after Ctrl-C or SIGTERM; the run is saved either way."""
        self._write_settings()
        config, first = self.config, self.record["step"]
        end = min(config.steps, config.pause_at or config.steps)
        before: float = self.record["seconds"]
        self.started = time.perf_counter() - before
        was_done = self._is_done()
        profiled = FirstSteps(config.profile, config.steps - first)
        with (
            terminal.StopSignal() as self.stop,
            TrainingDisplay(config.steps, bytes_per_token=self.prepared.bytes_per_token()) as self.display,
            np.errstate(over="ignore", invalid="ignore"),  # the gradient's norm tells, in one line
            MetricsFile(self.out / "metrics.jsonl", self.metrics_bytes) as self.metrics,
            EventFile(self.out, wanted=config.tensorboard, first_step=first) as self.events,
            self.trainer.batches,
            self._writer() as self.writer,
        ):
            self.alerts = Alerts(read_metrics(self.out))  # of the steps before, where there were any
            if not self.is_recorded:
                self._finish_step()
            while self.record["step"] < end and not self._is_done() and (not self.stop.exit_code or self.trainer.ahead):
                step = self.record["step"] + 1
                with profiled.watching(step - first):
                    self.record = self._step(step)
                profiled.finish(step - first, self.display.console, last=step == end or bool(self.stop.exit_code))
                self._finish_step()
                self.writer.check()
            if self.snapshot_step != self.record["step"]:  # a signal came
                self.save()
            self.writer.finish()
        if was_done:  # whoever trained it may have been killed before this picture
            self._draw()
        if self._has_stopped_early():
            self._tell_early_stop()
        self._summarize()
        return self.stop.exit_code

    def _is_done(self) -> bool:
        """Whether no step is to follow, in this process or another."""
        return bool(self.record["step"] == self.config.steps) or self._has_stopped_early()

    def _has_stopped_early(self) -> bool:
        return 0 < self.config.patience <= self.stale_evaluations

    def _tell_early_stop(self) -> None:
        log.warning(
            "stopped early after step %d: %d evaluations in a row without a better validation loss than %s of %s; "
            "--resume --patience 0 would go on",
            self.record["step"],
            self.stale_evaluations,
            "none" if self.best_val_loss is None else f"the {self.best_val_loss:.4f}",
            best_checkpoint(self.out),
        )

    def _step(self, step: int) -> dict[str, Any]:
        """One optimizer step; its line of metrics.jsonl, as far as it is known. Raises DivergedError."""
        try:
            return {**self.trainer.step(step, run_ahead=self._is_plain(step)), "seconds": self._seconds()}
        except DivergedError as error:
            raise DivergedError(f"{error}; {self._kept()}") from None

    def _is_plain(self, step: int) -> bool:
        """Whether another step follows this one and nothing between them needs the weights, as far as one can tell."""
        config = self.config
        pauses = config.eval_every, config.sample_every, config.checkpoint_every, config.keep_every
        due = step in (config.steps, config.pause_at) or any(every and step % every == 0 for every in pauses)
        asked = self.stop.exit_code or self.stop.save_wanted or self.trainer.guard.state.in_a_row
        return not (due or asked or watch.watcher)

    def _kept(self) -> str:
        self.writer.wait()
        saved = self.writer.saved_step
        return f"{self.out} keeps the model of step {saved}" if saved else "no checkpoint was due yet"

    def _tell_skipped(self, bad: BadStep) -> None:
        """Say why a step was not taken and, of the first in a row, where it went bad; end the run if that goes on.

        Raises DivergedError, once metrics.jsonl has the step.
        """
        guard, line = self.trainer.guard, f"step {bad.step} skipped, {bad.why}"
        if guard.gives_up or guard.state.in_a_row == 1:
            found = bad_step.explain(bad, self.trainer)
            line += f"; {found}"
            bad_step.keep(self.out / bad_step.FOLDER, bad, self.trainer, found=found, settings=self._settings())
        log.info("%s", line)
        if guard.gives_up:
            self.metrics.write(self.record)
            self.events.add(self.record)
            raise DivergedError(
                f"training diverged at step {bad.step}, {bad.why}, {guard.state.in_a_row} bad steps in a row; {found}; "
                f"{self._kept()}, and {self.out / bad_step.FOLDER} repeats this step: give a lower --lr"
            )
        self.display.print(line)

    def _seconds(self) -> float:
        """Since the run began, without the time between its parts."""
        return time.perf_counter() - self.started

    def _writer(self) -> CheckpointWriter:
        return CheckpointWriter(
            self.out,
            keep=self.config.keep,
            keep_every=self.config.keep_every,
            on_error=self.config.on_save_error,
            data_sha256=self.prepared.data_sha256(),
            tokenizer_sha256=self.prepared.manifest.tokenizer_sha256,
            saved_step=self.record["step"],
        )

    def _write_settings(self) -> None:
        """Everything about the run that is known before its first step."""
        write_atomic(self.out / "config.toml", self._settings())
        save_tokenizer(self.out, self.config.model, self.prepared.tokenizer)
        log.info("training %d parameters, %s", self.trainer.model.n_parameters(), self.config)

    def _settings(self) -> bytes:
        """As TOML, without what belongs to one start of the program only: a repeat gets a folder of its own."""
        once = {"config": None, "out": None, "profile": None, "resume": None, "resume_changed": False, "pause_at": None}
        return to_toml(msgspec.structs.replace(self.config, **once)).encode()

    def _finish_step(self) -> None:
        """What follows a step: validation, its line of metrics.jsonl, a checkpoint, a sample, the live line.

        A signal cuts validation short; the step is then saved as one that is yet to be finished.
        """
        record, config = self.record, self.config
        step, last = record["step"], record["step"] == config.steps
        improved = False
        if self.trainer.bad_step:
            self._tell_skipped(self.trainer.bad_step)
        elif self.trainer.loss_scale.overflowed:
            log.info("step %d skipped, %s: now %g", step, record["skipped"], self.trainer.loss_scale.scale)
        told = self.alerts.check(record)
        if step % config.eval_every == 0 or last or "loss_alert" in told:
            try:
                improved = self._validate()
            except terminal.StopAskedError:
                self.is_recorded = False
                self.save()
                return
            last = self._is_done()
        record["seconds"] = self._seconds()
        self._tell_alerts(told)
        self.metrics.write(record)
        self.events.add(record)
        self.is_recorded = True
        if self._checkpoint_due(step) or improved:
            self.save()
        if "val_loss" in record:
            self._draw()
        wanted = last or (config.sample_every and step % config.sample_every == 0)
        if wanted and not self.stop.exit_code and not self.trainer.guard.state.in_a_row:
            self.display.print(f"step {step}: {self.trainer.sample(step, self.stop)}")
        self.display.update(record, val_loss=self.val_loss, skipped=self.trainer.guard.state.skipped)

    def _tell_alerts(self, told: dict[str, str]) -> None:
        """Say what has become unusual with this step, and have it saved: whoever looks into it finds the model.

        A loss that jumps has been validated too, in a resumed run as in a whole one; slow steps are the machine's.
        """
        self.record |= told
        for line in told.values():
            log.info("alert: %s", line)
            self.display.print(f"alert: {line}")
            self.stop.save_wanted = True

    def _draw(self) -> None:
        try:
            draw_loss(self.out)
        except OSError as error:  # a full disk is no reason to lose the training
            log.warning("no picture: %s", terminal.one_line(error))

    def _validate(self) -> bool:
        """Measure; True if no earlier model was as good. Raises StopAskedError when a signal comes."""
        batches = self.stop.unless_stopped(self.trainer.validation)
        with self.trainer.optimizer.averaged():
            loss = mean_loss(self.trainer.model, batches, self.config.device)
        self.record |= {"val_loss": loss, "unigram_loss": self.trainer.unigram_loss}
        self.val_loss = loss
        improved = loss < (math.inf if self.best_val_loss is None else self.best_val_loss)
        self.best_val_loss = loss if improved else self.best_val_loss
        regular = self.record["step"] % self.config.eval_every == 0
        self.stale_evaluations = 0 if improved else self.stale_evaluations + regular
        return improved

    def _checkpoint_due(self, step: int) -> bool:
        """While steps are no numbers it is put off: that may be the weights' fault, and older ones would have to go.

        And while a GPU is in the next step already: until that is finished.
        """
        config = self.config
        asked, self.stop.save_wanted = self.stop.save_wanted, False
        regular = step % (config.checkpoint_every or config.eval_every) == 0
        for_good = bool(config.keep_every) and step % config.keep_every == 0
        due = asked or regular or for_good or self._is_snapshot_old()
        not_now = self.trainer.guard.state.in_a_row or self.trainer.ahead
        if step not in (config.steps, config.pause_at) and not_now:
            self.stop.save_wanted = due
            return False
        return due or step in (config.steps, config.pause_at)

    def _is_snapshot_old(self) -> bool:
        limit = 60 * self.config.checkpoint_minutes
        return 0 < limit <= self._seconds() - self.snapshot_seconds

    def save(self) -> None:
        """Have a checkpoint written of how things are now: only the copy is waited for, unless one is being written."""
        self.writer.wait()
        state = TrainingState(
            step=self.record["step"],
            tokens=self.trainer.tokens,
            record=self.record.copy(),
            is_recorded=self.is_recorded,
            seed=self.config.seed,
            dropout_calls=self.trainer.model.dropout_keys.calls,
            next_batch=self.trainer.next_batch,
            metrics_bytes=self.metrics.position,
            val_loss=self.val_loss,
            best_val_loss=self.best_val_loss,
            stale_evaluations=self.stale_evaluations,
            guard=self.trainer.guard.state,
            loss_scale=self.trainer.loss_scale.state,
            made_with=environment(),
        )
        self.snapshot = self.trainer.snapshot(self.snapshot)  # in the same memory: a new copy would lie beside a step
        self.writer.save(Snapshot(self.snapshot, state, self._write_extras))
        self.snapshot_step, self.snapshot_seconds = state.step, self._seconds()

    def _write_extras(self, folder: Path) -> None:
        write_atomic(folder / "config.toml", self._settings())
        save_tokenizer(folder, self.config.model, self.prepared.tokenizer)

    def _summarize(self) -> None:
        summarize(
            self.record,
            config=self.config,
            out=self.out,
            is_done=self._is_done(),
            val_loss=self.val_loss,
            unigram_loss=self.trainer.unigram_loss,
            bytes_per_token=self.prepared.bytes_per_token(),
            parameters=self.trainer.describe_parameters(),
            skipped=self.trainer.guard.state.skipped,
            overflows=self.trainer.loss_scale.state.overflows,
        )


if __name__ == "__main__":
    sys.exit(terminal.run(main))
