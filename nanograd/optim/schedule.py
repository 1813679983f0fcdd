"""Floor 4. Learning rates as plain functions of the step: nothing to save, nothing to restore."""

import math


def warmup_cosine(step: int, *, peak: float, warmup_steps: int, total_steps: int, min_ratio: float = 0.1) -> float:
    """The learning rate of update `step` (0 … total_steps − 1): a straight line up, then half a cosine down.

    Update warmup_steps − 1 is the first at `peak`, the last update has peak · min_ratio, and later ones stay there.
    Source: Loshchilov & Hutter, "SGDR", 2017, eq. 5, with one period; linear warm-up as in Vaswani et al. 2017.
    """
    done = step + 1
    if done <= warmup_steps:
        return peak * (done / warmup_steps)
    progress = min(1.0, (done - warmup_steps) / max(1, total_steps - warmup_steps))
    return peak * (min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))
