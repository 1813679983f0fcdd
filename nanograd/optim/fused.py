"""Floor 4. The optimizer inside backward: each gradient is used and freed as soon as it is complete.

Gradients of all parameters then never exist together, which saves as much memory as the weights take.
Lv et al., "Full parameter fine-tuning for large language models with limited resources" (LOMO), 2023
"""

import contextlib
import functools
import math
from collections.abc import Iterator

from nanograd import backend
from nanograd.nn.module import Parameter
from nanograd.optim.clip import LONGEST, NonFiniteGradientError, sum_of_squares
from nanograd.optim.optimizer import Optimizer


class FusedIntoBackward:
    """Makes `backward` step any optimizer.

        flat = FlatParameters(model, with_gradients=False)
        fused = FusedIntoBackward(AdamW(flat))
        with fused.step(lr):
            model.loss(ids, targets).backward()

    The weights are those of backward and then step, bit for bit. But the gradient's whole length is known at the end
    only, so it can't be clipped to it; nor can several backwards add up their gradients. A parameter that is used by
    several operations (tied embeddings) waits for the last of them. Only a parameter that is used both inside and
    outside of nn.recompute is refused, by a RuntimeError: backward can't foresee its second gradient.

    norm  length of the whole gradient of the last step
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if optimizer.flat.gradients is not None:
            raise ValueError("FusedIntoBackward: pack by FlatParameters(module, with_gradients=False) to save memory")
        self.optimizer, self.norm = optimizer, 0.0
        self._waiting: dict[str, Parameter] = {}
        self._lr: float | None = None
        for name, parameter in optimizer.flat.named.items():
            parameter.when_complete(functools.partial(self._take, name, parameter))

    @contextlib.contextmanager
    def step(self, lr: float) -> Iterator[None]:
        """One backward inside this block is one step. A parameter that it does not reach has the gradient 0.

        Raises NonFiniteGradientError out of that backward at the first gradient that is no number, or whose square is
        none; parameters above it have had their step already, the others stay as they are.
        """
        self.optimizer.begin()
        self._lr, self._waiting, self._squares = lr, dict(self.optimizer.flat.named), 0.0
        try:
            yield
            for name, parameter in list(self._waiting.items()):
                xp = backend.array_module(parameter.data)
                parameter.grad = xp.zeros(parameter.shape, backend.accumulator(parameter.dtype))
                self._take(name, parameter)
            self.optimizer.end()
        finally:
            self._lr, self.norm = None, math.sqrt(self._squares)
            self._forget_gradients()

    def _take(self, name: str, parameter: Parameter) -> None:
        """The gradient of this parameter is complete."""
        if parameter.grad is None:  # none came: step() sees to it
            return
        if self._lr is None:
            self._forget_gradients()
            raise RuntimeError("backward: the optimizer is fused into it, so it must run inside `with fused.step(lr)`")
        if name not in self._waiting:
            raise RuntimeError(f"{name} had its step already: one backward a step, no parameter also outside recompute")
        squares = sum_of_squares(parameter.grad.reshape(-1))
        self._squares += squares
        if not math.sqrt(squares) <= LONGEST:
            raise NonFiniteGradientError(math.sqrt(squares), name)
        self.optimizer.update_parameter(name, parameter.grad, self._lr)
        del self._waiting[name]
        parameter.grad = None

    def _forget_gradients(self) -> None:
        """What a backward that failed left behind."""
        for parameter in self.optimizer.flat.named.values():
            parameter.grad = None
