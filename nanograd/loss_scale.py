"""Floor 5. Gradients of fp16: multiplied by a scale that keeps them above its smallest number, and below its largest.

A float16 below 6·10⁻⁸ is 0, and the gradients of a language model are that small. Backward is linear: from S · loss
come gradients that are S times as large, and the optimizer divides by S. S is found by trial: halved after a step whose
gradients were infinite, which is not taken, and doubled after many that were not.
Micikevicius et al., "Mixed precision training", 2018, arXiv:1710.03740, §3.2; the numbers are those of PyTorch's
GradScaler. bfloat16 has float32's exponents and needs none of this: there S stays 1.
"""

import math

import msgspec

from nanograd import backend
from nanograd.backend import Array
from nanograd.precision import Precision
from nanograd.tensor import Tensor

FIRST, GROWTH_STEPS = 2.0**16, 2000
LARGEST = 2.0**24


class LossScaleState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint keeps.

    scale       S
    good_steps  since it has changed
    overflows   steps that were not taken because S was too large
    """

    scale: float = 1.0
    good_steps: int = 0
    overflows: int = 0


class LossScale:
    """S, and what is to be done about it after each step.

    first, growth_steps  where S begins, and how many good steps in a row double it; None: 2¹⁶ and 2000
    acts        whether S is ever anything but 1
    overflowed  whether the last step was not taken because S was too large
    """

    def __init__(self, precision: Precision, *, first: float | None = None, growth_steps: int | None = None) -> None:
        self.acts, self.growth_steps = precision == "fp16", growth_steps or GROWTH_STEPS
        self.state, self.overflowed = LossScaleState(scale=(first or FIRST) if self.acts else 1.0), False

    @property
    def scale(self) -> float:
        """S: what gradients are to be divided by."""
        return self.state.scale

    def first_gradient(self, loss: Tensor) -> Array | None:
        """What backward begins with, so that all gradients come out S times as large; None where S is 1 for ever."""
        return backend.array_module(loss.data).full_like(loss.data, self.scale) if self.acts else None

    def check(self, loss: float, grad_norm: float) -> str:
        """Why this step must not be taken, if S is the reason; '' if not. Once for each step: it changes S.

        With S = 1, or a loss that is no number itself, the scale is not to blame.
        """
        now, is_good = self.state, math.isfinite(grad_norm)
        self.overflowed = not is_good and math.isfinite(loss) and now.scale > 1
        if self.overflowed:
            self.state = LossScaleState(scale=max(1.0, now.scale / 2), overflows=now.overflows + 1)
            return f"gradient overflow at loss scale {now.scale:g}"
        if is_good and self.acts:
            self._count_good_step()
        return ""

    def _count_good_step(self) -> None:
        now = self.state
        if now.good_steps + 1 < self.growth_steps:
            self.state = msgspec.structs.replace(now, good_steps=now.good_steps + 1)
        else:
            larger = 2 * now.scale if now.scale < LARGEST else now.scale
            self.state = msgspec.structs.replace(now, scale=larger, good_steps=0)
