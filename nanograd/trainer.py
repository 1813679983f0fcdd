"""Floor 5. What a training run changes: model, optimizer and place in the data, and a step that moves all three.

Nothing here writes a file, except to the log: that is nanograd/train.py's part.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from nanograd import random, terminal
from nanograd.data import NO_TARGET, Batch, Prefetch
from nanograd.data.opening import training_batches, validation_set
from nanograd.generate import generate
from nanograd.io.arrays import read_arrays
from nanograd.io.checkpoint import WEIGHTS
from nanograd.io.training_state import OPTIMIZER, RAW_WEIGHTS, Arrays, TrainingState
from nanograd.memory import check_memory
from nanograd.models import DecoderLM
from nanograd.optim import FlatParameters, FusedIntoBackward, NonFiniteGradientError, clip_scale
from nanograd.optim_settings import learning_rate_of, make_optimizer
from nanograd.prepare import Prepared
from nanograd.settings import TrainConfig
from nanograd.watch import part

log = logging.getLogger(__name__)


class DivergedError(ValueError):
    """Loss or gradient are no numbers any more: one line that says at which step and what to do."""


class Trainer:
    """Model, optimizer and place in the data of one run.

    next_batch  number of the next micro-batch: with the seed it says which tokens that holds
    tokens      targets learned from so far
    """

    def __init__(self, config: TrainConfig, prepared: Prepared) -> None:
        self.config, self.prepared = config, prepared
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
        self.parameters = FlatParameters(self.model, with_gradients=not config.optim.fuse_optimizer)
        self.optimizer = make_optimizer(config.optim, self.parameters, self.model.hidden_matrices())
        self.fused = FusedIntoBackward(self.optimizer) if config.optim.fuse_optimizer else None
        targets = np.concatenate([batch.targets.ravel() for batch in self.validation])
        self.unigram_loss = prepared.unigram_loss(targets[targets != NO_TARGET])
        self.next_batch = self.tokens = 0

    def snapshot(self) -> Arrays:
        """File name → the arrays it will hold, each copied: what a step waits for when a run is saved.

        With a mean of the weights, that is the model; the weights themselves, which training goes on from, lie beside.
        """
        with self.optimizer.averaged():
            files = {WEIGHTS: _copied(self.model.state_dict())}
        if self.config.optim.ema_decay:
            files[RAW_WEIGHTS] = _copied(self.model.state_dict())
        return {**files, OPTIMIZER: _copied(self.optimizer.state_dict())}

    def nbytes(self) -> int:
        """Of such a snapshot."""
        model, optimizer = (
            sum(int(array.nbytes) for array in state.values())
            for state in (self.model.state_dict(), self.optimizer.state_dict())
        )
        return model * (2 if self.config.optim.ema_decay else 1) + optimizer

    def restore(self, checkpoint: Path, state: TrainingState) -> None:
        """Become what a checkpoint holds. Raises ValueError if it belongs to another model or optimizer."""
        raw = checkpoint / RAW_WEIGHTS
        self.model.load_state_dict(read_arrays(raw if raw.exists() else checkpoint / WEIGHTS))
        self.optimizer.load_state_dict(read_arrays(checkpoint / OPTIMIZER))
        self.model.dropout_keys.calls = state.dropout_calls
        self.next_batch, self.tokens = state.next_batch, state.tokens

    def describe_parameters(self) -> str:
        """How many numbers are learned, and how many are not."""
        learned = f"{len(self.parameters.parameters):,} learned"
        frozen = f", {self.model.tokens.weight.size:,} frozen" if self.config.freeze_embeddings else ""
        return learned + frozen

    def step(self, step: int) -> dict[str, Any]:
        """One optimizer step; what metrics.jsonl says about it. Raises DivergedError."""
        config, started = self.config, time.perf_counter()
        batches = [self._batch() for _ in range(config.accumulate)]
        tokens = sum(batch.n_targets for batch in batches)
        lr = learning_rate_of(config.optim, step - 1, config.steps)
        loss, grad_norm = self._update(step, batches, lr)
        self.tokens += tokens
        seconds = time.perf_counter() - started
        return {
            "step": step,
            "loss": loss,
            "lr": lr,
            "grad_norm": grad_norm,
            "tokens": self.tokens,
            "tokens_per_second": tokens / seconds,
        }

    def _update(self, step: int, batches: Sequence[Batch], lr: float) -> tuple[float, float]:
        """Backward over all micro-batches, and the optimizer. Returns loss and length of the gradient."""
        tokens, loss = sum(batch.n_targets for batch in batches), math.nan
        try:
            if self.fused is not None:
                with self.fused.step(lr):
                    loss = self.backward(batches[0], share=1.0)
                return loss, self.fused.norm
            loss = sum(self.backward(batch, share=batch.n_targets / tokens) for batch in batches)
            with part("gradient norm"):
                grad_norm, scale = clip_scale(self.parameters, self.config.optim.clip_norm or math.inf)
        except NonFiniteGradientError as error:
            why = str(error) if self.fused else f"loss {loss}"
            raise DivergedError(f"training diverged at step {step}, {why}: give a lower --lr") from None
        with part("optimizer"):
            self.optimizer.step(lr, scale=scale, zero_grad=True)
        return loss, grad_norm

    def _batch(self) -> Batch:
        with part("data"):
            batch = self.batches.batch(self.next_batch)
        self.next_batch += 1
        return batch

    def backward(self, batch: Batch, *, share: float) -> float:
        """Add one micro-batch's share to the gradients; returns its share of the loss."""
        optim = self.config.optim
        with part("forward"):
            loss = self.model.loss(
                **batch.on(self.config.device), label_smoothing=optim.label_smoothing, z_loss=optim.z_loss
            )
            loss = loss * share
        loss.backward()
        return float(loss.item())

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


def _copied(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in arrays.items()}
