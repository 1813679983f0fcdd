"""Floor 6. The training loop: step, validation, a line of metrics.jsonl, a checkpoint, a sample, until all is done."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nanograd import bad_step, terminal, watch
from nanograd.alerts import Alerts
from nanograd.display import TrainingDisplay
from nanograd.evaluation import mean_loss
from nanograd.event_file import EventFile
from nanograd.guard import DivergedError
from nanograd.io.metrics_file import MetricsFile
from nanograd.io.run_checkpoints import best_checkpoint
from nanograd.memory import check_disk
from nanograd.plot import draw_loss, read_metrics
from nanograd.prepare import Prepared
from nanograd.profile import FirstSteps
from nanograd.resume import Earlier
from nanograd.saving import Progress, Saving
from nanograd.settings import TrainConfig
from nanograd.train_report import summarize
from nanograd.trainer import BadStep, Trainer

log = logging.getLogger(__name__)


class TrainingRun:
    """One training run: what it reads, what it changes, what it writes."""

    def __init__(self, config: TrainConfig, prepared: Prepared, out: Path) -> None:
        self.config, self.prepared, self.out = config, prepared, out
        self.trainer = Trainer(config, prepared)
        check_disk(out, self.trainer.nbytes(), keep=config.keep)
        self.saving = Saving(config, prepared, out, self.trainer)
        self.progress = Progress()
        self.metrics_bytes = 0

    def restore(self, earlier: Earlier) -> None:
        """Become what the checkpoint holds. Raises ValueError if it belongs to another model or optimizer."""
        self.progress = self.saving.restore(earlier)
        self.metrics_bytes = earlier.state.metrics_bytes

    def train(self) -> int:
        """The loop. Returns 0, or 128 + signal number after Ctrl-C or SIGTERM; the run is saved either way."""
        was_done = self._is_done()
        end = min(self.config.steps, self.config.pause_at or self.config.steps)
        with self.opened():
            while self.progress.step < end and not self._is_done() and (not self.stop.exit_code or self.trainer.ahead):
                self.take_step()
            if self.saving.step != self.progress.step:  # a signal came
                self._save()
            self.writer.finish()
        if was_done:  # whoever trained it may have been killed before this picture
            self._draw()
        if self._has_stopped_early():
            self._tell_early_stop()
        self._summarize()
        return self.stop.exit_code

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Files, workers, the live table and signals, for as long as steps are taken."""
        config, first = self.config, self.progress.step
        self.saving.write_settings(self.out)
        log.info("training %d parameters, %s", self.trainer.model.n_parameters(), config)
        self.started: float = time.perf_counter() - self.progress.record["seconds"]
        self.profile, self.first = FirstSteps(config.profile, config.steps - first), first
        with (
            terminal.StopSignal() as self.stop,
            TrainingDisplay(config.steps, bytes_per_token=self.prepared.bytes_per_token()) as self.display,
            np.errstate(over="ignore", invalid="ignore"),  # the gradient's norm tells, in one line
            MetricsFile(self.out / "metrics.jsonl", self.metrics_bytes) as self.metrics,
            EventFile(self.out, wanted=config.tensorboard, first_step=first) as self.events,
            self.trainer.batches,
            self.saving.writer(first) as self.writer,
        ):
            self.alerts = Alerts(read_metrics(self.out))  # of the steps before, where there were any
            if not self.progress.is_recorded:
                self._finish_step()
            yield

    def take_step(self) -> None:
        """One optimizer step, and what follows it. Raises DivergedError, and OSError when saving fails."""
        step = self.progress.step + 1
        with self.profile.watching(step - self.first):
            self.progress.record = self._step(step)
        is_last = step in (self.config.steps, self.config.pause_at) or bool(self.stop.exit_code)
        self.profile.finish(step - self.first, self.display.console, last=is_last)
        self._finish_step()
        self.writer.check()

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

    def _finish_step(self) -> None:
        """What follows a step: validation, its line of metrics.jsonl, a checkpoint, a sample, the live line.

        A signal cuts validation short; the step is then saved as one that is yet to be finished.
        """
        record, config = self.progress.record, self.config
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
                self.progress.is_recorded = False
                self._save()
                return
            last = self._is_done()
        record["seconds"] = self._seconds()
        self._tell_alerts(told)
        self.metrics.write(record)
        self.events.add(record)
        self.progress.is_recorded = True
        if self._is_save_due(step) or improved:
            self._save()
        if "val_loss" in record:
            self._draw()
        wanted = last or (config.sample_every and step % config.sample_every == 0)
        if wanted and not self.stop.exit_code and not self.trainer.guard.state.in_a_row:
            self.display.print(f"step {step}: {self.trainer.sample(step, self.stop)}")
        self.display.update(record, val_loss=self.progress.val_loss, skipped=self.trainer.guard.state.skipped)

    def _validate(self) -> bool:
        """Measure; True if no earlier model was as good. Raises StopAskedError when a signal comes."""
        progress = self.progress
        batches = self.stop.unless_stopped(self.trainer.validation)
        with self.trainer.optimizer.averaged():
            loss = mean_loss(self.trainer.model, batches, self.config.device)
        progress.record |= {"val_loss": loss, "unigram_loss": self.trainer.unigram_loss}
        return progress.add_validation(loss, regular=progress.step % self.config.eval_every == 0)

    def _is_save_due(self, step: int) -> bool:
        """While steps are no numbers it is put off: that may be the weights' fault, and older ones would have to go.

        And while a GPU is in the next step already: until that is finished.
        """
        is_end = step in (self.config.steps, self.config.pause_at)
        asked, self.stop.save_wanted = self.stop.save_wanted, False
        due = asked or self.saving.is_due(step, self._seconds())
        if not is_end and (self.trainer.guard.state.in_a_row or self.trainer.ahead):
            self.stop.save_wanted = due
            return False
        return due or is_end

    def _save(self) -> None:
        self.saving.save(self.writer, self.progress, metrics_bytes=self.metrics.position, seconds=self._seconds())

    def _tell_skipped(self, bad: BadStep) -> None:
        """Say why a step was not taken and, of the first in a row, where it went bad; end the run if that goes on.

        Raises DivergedError, once metrics.jsonl has the step.
        """
        guard, line = self.trainer.guard, f"step {bad.step} skipped, {bad.why}"
        if guard.gives_up or guard.state.in_a_row == 1:
            found = bad_step.explain(bad, self.trainer)
            line += f"; {found}"
            folder = self.out / bad_step.FOLDER
            bad_step.keep(folder, bad, self.trainer, found=found, settings=self.saving.settings())
        log.info("%s", line)
        if guard.gives_up:
            self.metrics.write(self.progress.record)
            self.events.add(self.progress.record)
            raise DivergedError(
                f"training diverged at step {bad.step}, {bad.why}, {guard.state.in_a_row} bad steps in a row; {found}; "
                f"{self._kept()}, and {self.out / bad_step.FOLDER} repeats this step: give a lower --lr"
            )
        self.display.print(line)

    def _tell_alerts(self, told: dict[str, str]) -> None:
        """Say what has become unusual with this step, and have it saved: whoever looks into it finds the model.

        A loss that jumps has been validated too, in a resumed run as in a whole one; slow steps are the machine's.
        """
        self.progress.record |= told
        for line in told.values():
            log.info("alert: %s", line)
            self.display.print(f"alert: {line}")
            self.stop.save_wanted = True

    def _kept(self) -> str:
        self.writer.wait()
        saved = self.writer.saved_step
        return f"{self.out} keeps the model of step {saved}" if saved else "no checkpoint was due yet"

    def _is_done(self) -> bool:
        """Whether no step is to follow, in this process or another."""
        return self.progress.step == self.config.steps or self._has_stopped_early()

    def _has_stopped_early(self) -> bool:
        return 0 < self.config.patience <= self.progress.stale_evaluations

    def _tell_early_stop(self) -> None:
        best = self.progress.best_val_loss
        log.warning(
            "stopped early after step %d: %d evaluations in a row without a better validation loss than %s of %s; "
            "--resume --patience 0 would go on",
            self.progress.step,
            self.progress.stale_evaluations,
            "none" if best is None else f"the {best:.4f}",
            best_checkpoint(self.out),
        )

    def _draw(self) -> None:
        try:
            draw_loss(self.out)
        except OSError as error:  # a full disk is no reason to lose the training
            log.warning("no picture: %s", terminal.one_line(error))

    def _seconds(self) -> float:
        """Since the run began, without the time between its parts."""
        return time.perf_counter() - self.started

    def _summarize(self) -> None:
        summarize(
            self.progress.record,
            config=self.config,
            out=self.out,
            is_done=self._is_done(),
            val_loss=self.progress.val_loss,
            unigram_loss=self.trainer.unigram_loss,
            bytes_per_token=self.prepared.bytes_per_token(),
            parameters=self.trainer.describe_parameters(),
            skipped=self.trainer.guard.state.skipped,
            overflows=self.trainer.loss_scale.state.overflows,
        )
