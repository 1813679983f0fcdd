"""Floor 5. A training step that the host waits for: on a CPU, and on a GPU where numbers are looked at in between."""

import math
from collections.abc import Iterator, Sequence

from nanograd.data import Batch
from nanograd.guard import DivergedError, Guard
from nanograd.loss_scale import LossScale
from nanograd.models import DecoderLM
from nanograd.optim import FusedIntoBackward, NonFiniteGradientError, Optimizer, clip_scale
from nanograd.settings import TrainConfig
from nanograd.tensor import Tensor
from nanograd.watch import part


class HostStep:
    """Backward over the micro-batches of a step, a look at loss and gradient, and the optimizer."""

    def __init__(
        self, config: TrainConfig, model: DecoderLM, optimizer: Optimizer, guard: Guard, loss_scale: LossScale
    ) -> None:
        self.config, self.model, self.optimizer = config, model, optimizer
        self.guard, self.loss_scale = guard, loss_scale
        self.fused = FusedIntoBackward(optimizer) if config.optim.fuse_optimizer else None

    def take(self, step: int, batches: Sequence[Batch], lr: float) -> tuple[float, float, str]:
        """Loss, length of the gradient, and why the step was not taken; '' if it was.

        Raises DivergedError where an optimizer that is fused into backward meets a gradient that is no number.
        """
        if self.fused is None:
            return self._plain(batches, lr)
        return self._inside_backward(self.fused, step, batches, lr)

    def _plain(self, batches: Sequence[Batch], lr: float) -> tuple[float, float, str]:
        """Of a step that is not taken nothing stays but the zeros that gradients begin with."""
        loss, S = 0.0, self.loss_scale.scale
        for share in shares_of_loss(self.model, batches, self.config):
            share.backward(self.loss_scale.first_gradient(share))
            loss += float(share.item())
        with part("gradient norm"):
            try:
                grad_norm, scale = clip_scale(self.optimizer.flat, S * (self.config.optim.clip_norm or math.inf))
            except NonFiniteGradientError as error:
                grad_norm, scale = error.norm, 1.0
        grad_norm /= S
        if why := self.loss_scale.check(loss, grad_norm) or self.guard.check(loss, grad_norm, scale=scale):
            self.optimizer.flat.zero_grad()
            return loss, grad_norm, why
        with part("optimizer"):
            self.optimizer.step(lr, scale=scale / S, zero_grad=True)
        return loss, grad_norm, ""

    def _inside_backward(
        self, fused: FusedIntoBackward, step: int, batches: Sequence[Batch], lr: float
    ) -> tuple[float, float, str]:
        """The loss is looked at before backward; a gradient comes when others have been used, and can't be skipped."""
        (share,) = shares_of_loss(self.model, batches, self.config)
        loss = float(share.item())
        if why := self.guard.check(loss, 0.0):
            return loss, math.nan, why
        try:
            with fused.step(lr):
                share.backward()
        except NonFiniteGradientError as error:
            raise DivergedError(
                f"training diverged at step {step}, {error}: inside --fuse-optimizer a step can't be skipped once it "
                "has begun; --resume --resume-changed --no-fuse-optimizer can, or give a lower --lr"
            ) from None
        return loss, fused.norm, ""


def shares_of_loss(model: DecoderLM, batches: Sequence[Batch], config: TrainConfig) -> Iterator[Tensor]:
    """Of each micro-batch of a step, its share of the step's loss: one by one, as backward frees what each holds."""
    tokens, optim = sum(batch.n_targets for batch in batches), config.optim
    for batch in batches:
        with part("forward"):
            inputs = batch.on(config.device)
            loss = model.loss(**inputs, label_smoothing=optim.label_smoothing, z_loss=optim.z_loss)
            share = loss * (batch.n_targets / tokens)
        yield share
