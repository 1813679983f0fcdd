"""Floor 3. AdamW, SGD, Lion and Muon's momentum and step, each in one pass over the flat buffers: see nanograd/optim.

The pass takes the gradient, moves the float32 weights, rounds what the model computes with, and leaves zeros behind.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from nanograd import backend
from nanograd.backend import Array
from nanograd.kernels.cuda.launch import launch, type_name

THREADS, GROUP = 256, 4  # of a block; parameters of a thread


class Step(NamedTuple):
    """What all optimizers are told. Numbers that change from step to step may lie on the device: a CUDA graph repeats
    all others as they were when it was recorded.

    lr         float, or float32 without axes on the device
    decay      λ, or 0 where weights do not decay
    scale      factor for the gradient. On the device 0 or no number says that the step is not to be taken: weights,
               moments and copy then stay as they are, bit for bit
    zero_grad  leave zeros in the gradient
    first      number of the array's first parameter in the whole model: with `seed` and `number` its chance
    copy       what the model computes with, in 16 bits: rounded as by precision.round_into; None where that is w
    seed       first word of the key of precision.rounding_key
    number     the second, int or uint64 without axes on the device: which step it is
    """

    lr: float | Array
    decay: float
    scale: float | Array
    zero_grad: bool
    first: int = 0
    copy: Array | None = None
    seed: int = 0
    number: int | Array = 0

    def arguments(self, n: int) -> tuple[Any, ...]:
        """As the kernels' STEP_PARAMETERS want them, for arrays (n,)."""
        lr, scale = _here_and_there(self.lr, float), _here_and_there(self.scale, float)
        number, ends = _here_and_there(self.number, np.uint64), (np.int64(self.first), np.int64(n))
        return (*lr, float(self.decay), *scale, int(self.zero_grad), np.uint64(self.seed), *number, *ends)


def _here_and_there(x: Any, kind: Any) -> tuple[Any, Array | None]:
    """A number and a null pointer, or any number and a pointer to the one that counts."""
    return (kind(0), x) if hasattr(x, "dtype") and x.ndim == 0 and not isinstance(x, np.generic) else (kind(x), None)


def _run(kernel: str, w: Array, step: Step, *arguments: Any) -> None:
    """`kernel` in its form for what the model computes in."""
    kind = "f32" if step.copy is None else type_name(step.copy.dtype)
    _launch(f"{kernel}_{kind}", w, step, step.copy, w, *arguments)


def _launch(kernel: str, x: Array, step: Step, *arguments: Any) -> None:
    """Four parameters for each thread; the first four may begin before x does."""
    blocks = math.ceil((step.first % GROUP + x.size) / (THREADS * GROUP))
    launch(backend.array_module(x), kernel, blocks, THREADS, *arguments, *step.arguments(x.size))


def _shares(beta: float) -> tuple[float, float]:
    """β and 1 − β, each rounded to float32 by itself: 1 − 0.999 in float32 would be off in the fifth digit."""
    return beta, 1 - beta


def adamw(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    betas: tuple[float, float],
    rises: tuple[float, float] | Array,
    eps: float,
    step: Step,
) -> None:
    """AdamW's formulas on float32 arrays (n,), in place.

    rises  1 / (1 − β₁ᵗ) and 1 / (1 − β₂ᵗ); or float32 (2,) on the device
    """
    corrections = (*rises, None) if isinstance(rises, tuple) else (0.0, 0.0, rises)
    _run("adamw", w, step, g, m, v, *_shares(betas[0]), *_shares(betas[1]), *corrections, eps)


def sgd(w: Array, g: Array, m: Array | None, *, momentum: float, nesterov: bool, step: Step) -> None:
    """SGD's formulas on float32 arrays (n,), in place. Without momentum m is None."""
    _run("sgd", w, step, g, m, float(momentum), int(nesterov))


def lion(w: Array, g: Array, m: Array, *, betas: tuple[float, float], step: Step) -> None:
    """Lion's formulas on float32 arrays (n,), in place."""
    _run("lion", w, step, g, m, *_shares(betas[0]), *_shares(betas[1]))


def muon_momentum(direction: Array, g: Array, m: Array, *, momentum: float, nesterov: bool, step: Step) -> None:
    """Muon's first half on float32 arrays (n,): m in place, and `direction`, which is to be made orthogonal."""
    _launch("muon_momentum", m, step._replace(first=0), direction, g, m, *_shares(momentum), int(nesterov))


def muon_apply(w: Array, orthogonal: Array, *, size: float, step: Step) -> None:
    """Muon's second half: w ← w − lr λ w − lr · size · orthogonal, on float32 arrays (n,), in place."""
    _run("muon_apply", w, step, orthogonal, float(size))
