"""Floor 4. A running mean of the weights, beside any optimizer: it is calmer than the weights themselves."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from nanograd import backend
from nanograd.backend import Array
from nanograd.optim.optimizer import Optimizer, Part


class Averaged(Optimizer):
    """An optimizer that also keeps an exponential moving average (EMA) of the weights after each of its steps.

        a ← a + (1 − d) / (1 − dᵗ) (w − a),   that is   a = (1 − d) / (1 − dᵗ) Σᵢ dᵗ⁻ⁱ wᵢ,   i = 1 … t

    d is `decay`. The shares add up to 1 from the first step on, as with Adam's m̂. The model before training has none: a
    mean that starts there would remember it for some 1 / (1 − d) steps.
    Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992
    """

    def __init__(self, optimizer: Optimizer, *, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"Averaged: decay {decay} must be above 0 and below 1")
        super().__init__(optimizer.flat)
        self.optimizer, self.decay, self.capturable = optimizer, decay, optimizer.capturable
        self.average = self._zeros()

    def step(self, lr: float, *, scale: float = 1.0, zero_grad: bool = False) -> None:
        """A step of the optimizer, and one of the mean."""
        self.optimizer.step(lr, scale=scale, zero_grad=zero_grad)
        self._follow()

    def begin(self) -> None:
        """See Optimizer.begin."""
        self.optimizer.begin()

    def update(self, part: Part, g: Array, lr: float, *, scale: float, zero_grad: bool) -> None:
        """What the optimizer does."""
        self.optimizer.update(part, g, lr, scale=scale, zero_grad=zero_grad)

    def update_parameter(self, name: str, gradient: Array, lr: float) -> None:
        """What the optimizer does."""
        self.optimizer.update_parameter(name, gradient, lr)

    def end(self) -> None:
        """A step of the mean."""
        self.optimizer.end()
        self._follow()

    def hyper(self, lr: float) -> list[float]:
        """The optimizer's, and the share of the new weights in the mean."""
        return [*self.optimizer.hyper(lr), self._share(self.steps + 1)]

    def read_from(self, hyper: Array | None, step: Array | None) -> None:
        """See Optimizer.read_from."""
        super().read_from(hyper, step)
        self.optimizer.read_from(hyper, step)

    def count(self, steps: int) -> None:
        """See Optimizer.count."""
        self.steps = steps
        self.optimizer.count(steps)

    def changed(self) -> list[Array]:
        """The optimizer's, and the mean."""
        return [*self.optimizer.changed(), self.average]

    def _share(self, steps: int) -> float:
        return (1 - self.decay) / (1 - self.decay**steps)

    def _follow(self) -> None:
        self.steps = self.optimizer.steps
        share = self._share(self.steps) if self.hyper_on_device is None else self.hyper_on_device[-1]
        for a, w in self._in_chunks(self.average, self.flat.parameters):
            a += share * (w - a)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside this block the parameters hold the mean; afterwards what they held before, bit for bit."""
        if not self.steps:  # no mean yet
            yield
            return
        with self.flat.holding(self.average):
            yield

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's, and 'average.NAME' for each parameter."""
        own = {name: backend.to_host(view) for name, view in self._state().items()}
        return self.optimizer.state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken: see Optimizer.load_state_dict."""
        mine = {name: array for name, array in state.items() if name == "steps" or name.startswith("average.")}
        inner = {name: array for name, array in state.items() if not name.startswith("average.")}
        average, steps = self.average.copy(), self.steps
        super().load_state_dict(mine)
        try:
            self.optimizer.load_state_dict(inner)
        except ValueError:  # nothing may have changed
            self.average[...] = average
            self.count(steps)
            raise

    def _state(self) -> dict[str, Array]:
        return self._named("average", self.average)
