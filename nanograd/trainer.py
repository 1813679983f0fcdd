"""Floor 5. What a training run changes: model, optimizer and place in the data, and a step that moves all three.

Nothing here writes a file, except to the log: that is nanograd/training_run.py's part.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nanograd import backend, random, terminal
from nanograd.data import NO_TARGET, Batch, Prefetch
from nanograd.data.opening import training_batches, validation_set
from nanograd.device_step import Begun, DeviceStep, device_step
from nanograd.generate import generate
from nanograd.guard import Guard
from nanograd.host_step import HostStep
from nanograd.io.arrays import read_arrays
from nanograd.io.checkpoint import WEIGHTS
from nanograd.io.training_state import OPTIMIZER, RAW_WEIGHTS, Arrays, TrainingState
from nanograd.loss_scale import LossScale
from nanograd.memory import check_memory
from nanograd.models import DecoderLM
from nanograd.optim import FlatParameters
from nanograd.optim.clip import scale_to
from nanograd.optim_settings import learning_rate_of, make_optimizer
from nanograd.prepare import Prepared
from nanograd.settings import TrainConfig
from nanograd.watch import part

log = logging.getLogger(__name__)


class BadStep(NamedTuple):
    """A step that was not taken: why, and what is needed to compute its loss again."""

    step: int
    why: str
    batches: Sequence[Batch]
    dropout_calls: int  # before it


class Update(NamedTuple):
    """What came of a step."""

    batches: Sequence[Batch]
    dropout_calls: int  # before it
    lr: float
    loss: float
    grad_norm: float
    why: str  # it was not taken; '' if it was


class Trainer:
    """Model, optimizer and place in the data of one run.

    next_batch  number of the next micro-batch: with the seed it says which tokens that holds
    tokens      targets learned from so far
    guard       looks at each step before it is taken
    bad_step    the last step, if it was not taken; a loss scale that is too large makes none
    loss_scale  what gradients are multiplied by: 1 but for fp16
    ahead       the next step, if a GPU has been told to take it already
    """

    def __init__(self, config: TrainConfig, prepared: Prepared) -> None:
        self.config, self.prepared = config, prepared
        self.stream = backend.own_stream(config.device)
        self.batches = Prefetch(training_batches(config, prepared), ahead=config.loader.prefetch)
        self.validation = validation_set(config, prepared)
        check_memory(
            config.model,
            config.batch_size,
            config.device,
            recompute_blocks=config.recompute_blocks,
            optim=config.optim,
        )
        self.model = DecoderLM(config.model, seed=config.seed, embeddings=prepared.embeddings)
        self.model.recompute_blocks = config.recompute_blocks
        if config.freeze_embeddings:
            self.model.freeze_embeddings()
        self.model.to(config.device)
        self.parameters = FlatParameters(
            self.model,
            with_gradients=not config.optim.fuse_optimizer,
            precision=config.precision,
            seed=config.seed,
        )
        self.optimizer = make_optimizer(config.optim, self.parameters, self.model.hidden_matrices())
        targets = np.concatenate([batch.targets.ravel() for batch in self.validation])
        self.unigram_loss = prepared.unigram_loss(targets[targets != NO_TARGET])
        self.next_batch = self.tokens = 0
        self.guard = Guard(max_bad_steps=config.optim.max_bad_steps, skip_spikes=config.optim.skip_spikes)
        self.bad_step: BadStep | None = None
        self.loss_scale = LossScale(config.precision, first=config.loss_scale, growth_steps=config.loss_scale_steps)
        self.host_step = HostStep(config, self.model, self.optimizer, self.guard, self.loss_scale)
        self.ahead: Begun | None = None
        self.device_step: DeviceStep | None = device_step(config, self.model, self.optimizer)

    def snapshot(self, earlier: Arrays | None = None) -> Arrays:
        """File name → the arrays it will hold, each copied: what a step waits for when a run is saved.

        With a mean of the weights, that is the model; the weights themselves, which training goes on from, lie beside.
        earlier  a snapshot that nobody needs any more: the new one takes its arrays
        """
        old = earlier or {}
        with self.optimizer.averaged(), self.parameters.in_float32():
            files = {WEIGHTS: _copied(self.model.state_dict(), old.get(WEIGHTS))}
        if self.config.optim.ema_decay:
            with self.parameters.in_float32():
                files[RAW_WEIGHTS] = _copied(self.model.state_dict(), old.get(RAW_WEIGHTS))
        return {**files, OPTIMIZER: _copied(self.optimizer.state_dict(), old.get(OPTIMIZER))}

    def nbytes(self) -> int:
        """Of such a snapshot."""
        with self.parameters.in_float32():
            model, optimizer = (
                sum(int(array.nbytes) for array in state.values())
                for state in (self.model.state_dict(), self.optimizer.state_dict())
            )
        return model * (2 if self.config.optim.ema_decay else 1) + optimizer

    def restore(self, checkpoint: Path, state: TrainingState) -> None:
        """Become what a checkpoint holds. Raises ValueError if it belongs to another model or optimizer."""
        raw = checkpoint / RAW_WEIGHTS
        with self.parameters.in_float32():
            self.model.load_state_dict(read_arrays(raw if raw.exists() else checkpoint / WEIGHTS))
        self.optimizer.load_state_dict(read_arrays(checkpoint / OPTIMIZER))
        self.parameters.refresh(self.optimizer.steps)  # by the chance of then
        if self.loss_scale.acts:
            self.loss_scale.state = state.loss_scale
        self.model.dropout_keys.calls = state.dropout_calls
        self.next_batch, self.tokens, self.guard.state = state.next_batch, state.tokens, state.guard

    def describe_parameters(self) -> str:
        """How many numbers are learned, and how many are not."""
        learned = f"{len(self.parameters.parameters):,} learned"
        frozen = f", {self.model.tokens.weight.size:,} frozen" if self.config.freeze_embeddings else ""
        return learned + frozen

    def step(self, step: int, *, run_ahead: bool = False) -> dict[str, Any]:
        """One optimizer step, unless loss or gradient forbid it; what metrics.jsonl says about it.

        run_ahead  have a GPU begin the next step before it is asked about this one, so that it never waits for the
                   host. The weights are then another step's: only where nobody looks at them before the next call
        Raises DivergedError where an optimizer that is fused into backward meets a gradient that is no number.
        """
        started, scale = time.perf_counter(), self.loss_scale.scale
        batches, calls, lr, loss, grad_norm, why = (
            self._host_update(step)
            if self.device_step is None
            else self._device_update(self.device_step, step, run_ahead)
        )
        tokens = sum(batch.n_targets for batch in batches)
        self.bad_step = BadStep(step, why, batches, calls) if why and not self.loss_scale.overflowed else None
        self.tokens += 0 if why else tokens
        seconds = time.perf_counter() - started
        record = {
            "step": step,
            "loss": loss if math.isfinite(loss) else None,  # as JSON has it
            "lr": lr,
            "grad_norm": grad_norm if math.isfinite(grad_norm) else None,
            "tokens": self.tokens,
            "tokens_per_second": tokens / seconds,
            **({"loss_scale": scale} if self.loss_scale.acts else {}),
        }
        return {**record, "skipped": why, "skipped_steps": self.guard.state.skipped} if why else record

    def _host_update(self, step: int) -> Update:
        """One step that is waited for."""
        calls, batches, lr = self.model.dropout_keys.calls, self._batches(), self._rate(step)
        return Update(batches, calls, lr, *self.host_step.take(step, batches, lr))

    def _rate(self, step: int) -> float:
        return learning_rate_of(self.config.optim, step - 1, self.config.steps)

    def _device_update(self, device_step: DeviceStep, step: int, run_ahead: bool) -> Update:
        """One step on a GPU, begun by the call before, perhaps; and the next one begun, perhaps.

        The device itself skips a step that is no number, and with it the next one, which it was given before anybody
        knew: that one is forgotten here and begun anew.
        """
        begun = self.ahead or self._begin(device_step, step)
        self.ahead = self._begin(device_step, step + 1) if run_ahead else None
        loss, grad_norm = begun.answer.wait()
        why = self.guard.check(loss, grad_norm, scale=scale_to(grad_norm, self.config.optim.clip_norm or math.inf))
        if why:
            if self.ahead is not None:
                self.next_batch, self.model.dropout_keys.calls = self.ahead.first_batch, self.ahead.dropout_calls
            self.ahead = None
            self.optimizer.count(begun.steps_taken)
            device_step.go_on()
        return Update(begun.batches, begun.dropout_calls, begun.lr, loss, grad_norm, why)

    def _begin(self, device_step: DeviceStep, step: int) -> Begun:
        calls, first, taken = self.model.dropout_keys.calls, self.next_batch, self.optimizer.steps
        batches, lr = self._batches(), self._rate(step)
        return Begun(batches, calls, first, taken, lr, device_step.enqueue(batches, lr))

    def _batches(self) -> list[Batch]:
        """The micro-batches of a step."""
        return [self._batch() for _ in range(self.config.accumulate)]

    def _batch(self) -> Batch:
        with part("data"):
            batch = self.batches.batch(self.next_batch)
        self.next_batch += 1
        return batch

    def sample(self, step: int, stop: terminal.StopSignal) -> str:
        """What the model says now; drawn from a stream of its own, so sampling never changes the training.

        A signal ends it early.
        """
        tokenizer = self.prepared.tokenizer
        prompt = [tokenizer.end_of_text_id, *tokenizer.encode(self.config.sample_prompt)]
        with self.optimizer.averaged():
            words = generate(
                self.model,
                prompt,
                max_new_tokens=self.config.sample_tokens,
                rng=random.generator(self.config.seed, f"sample {step}"),
                temperature=0.8,
                top_p=0.95,
                stop_id=tokenizer.end_of_text_id,
                allowed=tokenizer.vocab_size,
            )
            ids = list(takewhile(lambda _: not stop.exit_code, words))  # in here: the words come as they are asked for
        text = tokenizer.decode(np.array([*prompt[1:], *ids]))
        log.info("step %d, sample: %s", step, text)
        return text


def _copied(arrays: Mapping[str, np.ndarray], earlier: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    copies = {name: np.empty_like(array) for name, array in arrays.items()} if earlier is None else dict(earlier)
    for name, array in arrays.items():
        np.copyto(copies[name], array)
    return copies
