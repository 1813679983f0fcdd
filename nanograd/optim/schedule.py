"""Floor 4. Learning rates as plain functions of the step: nothing to save, nothing to restore.

Each begins with the same straight line up, in `warmup_steps` updates, and is a share of `peak` from then on:

    constant       1
    linear         a line down to min_ratio in the last update
    cosine         half a cosine down to it          Loshchilov & Hutter, "SGDR", 2017, eq. 5, with one period
    inverse_sqrt   √(warmup_steps / steps done)      Vaswani et al., "Attention is all you need", 2017, §5.3
    wsd            1, and in the last decay_share of all updates down to min_ratio: warm-up, stable, decay
                   Hu et al., "MiniCPM", 2024, §4; the shape 1 − √x: Hägele et al., "Scaling laws and compute-optimal
                   training beyond fixed training durations", 2024, §3
"""

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

Name: TypeAlias = Literal["cosine", "linear", "constant", "inverse-sqrt", "wsd"]
Shape: TypeAlias = Literal["linear", "1-sqrt"]


def learning_rate(name: Name, step: int, **settings: Any) -> float:
    """The learning rate of update `step` (from 0) by the schedule of that name; settings are those of its function."""
    return SCHEDULES[name](step, **settings)


def constant(step: int, *, peak: float, warmup_steps: int) -> float:
    """Warm-up, then `peak` for ever."""
    return _risen(step, peak, warmup_steps)


def linear(step: int, *, peak: float, warmup_steps: int, total_steps: int, min_ratio: float = 0.0) -> float:
    """Warm-up, then a line down to peak · min_ratio in the last update."""
    left = 1 - _progress(step + 1, warmup_steps, total_steps)
    return _risen(step, peak, warmup_steps) * _share(left, min_ratio)


def warmup_cosine(step: int, *, peak: float, warmup_steps: int, total_steps: int, min_ratio: float = 0.1) -> float:
    """The learning rate of update `step` (0 … total_steps − 1): a straight line up, then half a cosine down.

    Update warmup_steps − 1 is the first at `peak`, the last update has peak · min_ratio, and later ones stay there.
    """
    left = 0.5 * (1 + math.cos(math.pi * _progress(step + 1, warmup_steps, total_steps)))
    return _risen(step, peak, warmup_steps) * _share(left, min_ratio)


def inverse_sqrt(step: int, *, peak: float, warmup_steps: int, min_ratio: float = 0.0) -> float:
    """Warm-up, then peak · √(warmup_steps / steps done), but never below peak · min_ratio. It needs no last step.

    Without a warm-up it falls from the first step on, as if that had been one of a single step.
    """
    share = math.sqrt(max(1, warmup_steps) / max(step + 1, warmup_steps))
    return _risen(step, peak, warmup_steps) * max(min_ratio, share)


def wsd(
    step: int,
    *,
    peak: float,
    warmup_steps: int,
    total_steps: int,
    decay_share: float = 0.2,
    decay_shape: Shape = "linear",
    min_ratio: float = 0.0,
) -> float:
    """Warm-up, `peak`, and in the last decay_share · total_steps updates down to peak · min_ratio: a trapezoid.

    decay_shape  "linear" (1 − x) or "1-sqrt" (1 − √x), x from 0 to 1 over the decay. If warm-up and decay overlap, the
    decay begins where the warm-up ends.
    """
    stable_until = max(warmup_steps, total_steps - round(decay_share * total_steps))
    x = _progress(step + 1, stable_until, total_steps)
    left = 1 - (x if decay_shape == "linear" else math.sqrt(x))
    return _risen(step, peak, warmup_steps) * _share(left, min_ratio)


def _risen(step: int, peak: float, warmup_steps: int) -> float:
    """The warm-up: peak / warmup_steps in the first update, peak from update warmup_steps − 1 on."""
    return peak * ((step + 1) / warmup_steps) if step + 1 < warmup_steps else peak


def _share(left: float, min_ratio: float) -> float:
    """From 1 where all is left to min_ratio where nothing is; exactly 1, whatever min_ratio is rounded to."""
    return min_ratio + (1 - min_ratio) * left if left < 1 else 1.0


def _progress(done: int, start: int, stop: int) -> float:
    """Which share of the way from `start` to `stop` updates lies behind, in [0, 1]."""
    return min(1.0, max(0, done - start) / max(1, stop - start))


SCHEDULES: dict[Name, Callable[..., float]] = {
    "cosine": warmup_cosine,
    "linear": linear,
    "constant": constant,
    "inverse-sqrt": inverse_sqrt,
    "wsd": wsd,
}
