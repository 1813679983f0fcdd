"""Floor 5. Guard rails: which steps are not taken, since their loss or gradient is no number, or far from the usual.

A step that is not taken leaves weights, optimizer and the mean of the weights as they are, bit for bit; the place in
the data, the random streams and the schedule go on. Everything that the next decision depends on is in `Guard.state`.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from nanograd.optim.clip import LONGEST

WINDOW, SIGMAS = 128, 6  # steps that say what is usual, and how far from it a spike begins
FEWEST = WINDOW // 2  # steps before the usual is known


class DivergedError(ValueError):
    """Loss or gradient are no numbers any more: one line that says at which step and what to do."""


class GuardState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint keeps.

    skipped     steps that were not taken so far
    in_a_row    of these, the last ones, if they were no numbers; 0 after a step that was one
    losses, grad_norms  of the last WINDOW steps, if spikes are skipped
    """

    skipped: int = 0
    in_a_row: int = 0
    losses: tuple[float, ...] = ()
    grad_norms: tuple[float, ...] = ()


class Guard:
    """Looks at loss and gradient before the optimizer does.

    max_bad_steps  steps in a row that are no numbers before training gives up
    skip_spikes    leave out, too, a step whose loss or gradient is more than 6 standard deviations above the mean of
                   the last 128 steps. Spikes count among these: after a few of them the new level is the usual one.
                   The rule is OLMo-core's (SkipStepOptimizer, 2024); there, a step far below the mean is left out too
    """

    def __init__(self, *, max_bad_steps: int, skip_spikes: bool) -> None:
        self.max_bad_steps, self.skip_spikes = max_bad_steps, skip_spikes
        self.state = GuardState()

    @property
    def gives_up(self) -> bool:
        """Whether so many steps in a row were no numbers that the next ones would be none either."""
        return self.state.in_a_row >= self.max_bad_steps

    def check(self, loss: float, grad_norm: float, *, scale: float = 1.0) -> str:
        """Why this step must not be taken; '' if it may. Once for each step: it counts.

        scale  the factor by which clipping shortens the gradient
        """
        now = self.state
        losses, norms, spike = now.losses, now.grad_norms, ""
        bad = no_number(loss, grad_norm, scale=scale)
        if self.skip_spikes and not bad:
            spike = _spike("loss", loss, losses) or _spike("gradient norm", grad_norm, norms)
            losses, norms = (*losses, loss)[-WINDOW:], (*norms, grad_norm)[-WINDOW:]
        self.state = GuardState(
            skipped=now.skipped + bool(bad or spike),
            in_a_row=now.in_a_row + 1 if bad else 0,
            losses=losses,
            grad_norms=norms,
        )
        return bad or spike


def no_number(loss: float, grad_norm: float, *, scale: float = 1.0) -> str:
    """What is infinite or NaN: the loss, the gradient, or the square of the gradient; '' if nothing is."""
    if not math.isfinite(loss):
        return f"loss {loss}"
    if not math.isfinite(grad_norm):
        return f"gradient norm {grad_norm}"
    return f"gradient norm {grad_norm:.2g}, whose square is infinite" if grad_norm * scale > LONGEST else ""


def _spike(name: str, x: float, usual: Sequence[float]) -> str:
    if len(usual) < FEWEST:
        return ""
    mean, deviation = float(np.mean(usual)), float(np.std(usual, ddof=1))
    if x <= mean + SIGMAS * deviation:
        return ""
    return f"{name} {x:.4g}, more than {SIGMAS} deviations of {deviation:.2g} above the usual {mean:.4g}"
