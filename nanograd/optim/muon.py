"""Floor 4. Muon: momentum, made orthogonal, for the matrices inside; AdamW for everything else."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from nanograd import backend
from nanograd.backend import Array
from nanograd.optim.adamw import AdamW
from nanograd.optim.flat import FlatParameters
from nanograd.optim.newton_schulz import orthogonalize_all
from nanograd.optim.optimizer import Optimizer, Part


class Muon(Optimizer):
    """Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; the scale of Liu et al. 2025.

        m ← μ m + (1 − μ) g,     n = μ m + (1 − μ) g  (Nesterov's; or n = m)
        w ← w − lr λ w − lr 0.2 √max(rows, columns) orthogonalize(n)

    The nearest orthogonal matrix to n moves all directions alike, those too that the gradient hardly knows. Its numbers
    have the root mean square 1/√max(rows, columns); the factor makes that 0.2, which is about AdamW's, so one learning
    rate and one weight decay serve both.   Liu et al., "Muon is scalable for LLM training", 2025, §2.2

    hidden    name → rows of the maps that lie in this parameter one below the other. Packed queries, keys and values
              are three, and each is made orthogonal by itself: in one tall matrix the columns could only be orthonormal
              together, so a large gradient of the values would take from what queries and keys may move
    lr_ratio  learning rate of the hidden matrices, as a multiple of the lr that AdamW gets
    """

    one_by_one = capturable = has_gpu_kernels = True

    def __init__(
        self,
        flat: FlatParameters,
        *,
        hidden: Mapping[str, tuple[int, ...]],
        lr_ratio: float = 1.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        if not (0 <= momentum < 1 and lr_ratio > 0):
            raise ValueError(f"Muon: momentum {momentum} in [0, 1) and lr_ratio {lr_ratio} > 0 wanted")
        _check_hidden(flat, hidden)
        super().__init__(flat, weight_decay=weight_decay, names=hidden)
        self.momentum, self.nesterov, self.lr_ratio = momentum, nesterov, lr_ratio
        self.m = self._zeros()
        self._shapes = {
            part.where.start: [(rows, part.shape[1]) for rows in hidden[name]] for name, part in self.places.items()
        }
        others = [name for name in flat.named if name not in hidden]
        self.adamw = AdamW(flat, betas=betas, eps=eps, weight_decay=weight_decay, names=others)

    def step(self, lr: float, *, scale: float = 1.0, zero_grad: bool = False) -> None:
        """Both halves: see Optimizer.step. All hidden matrices become orthogonal at once, each by one thread."""
        self.begin()
        lr = self._rate(lr)
        self._update(self.parts, [self.flat.gradients[part.where] for part in self.parts], lr, scale, zero_grad)
        for part in self.adamw.parts:
            self.adamw.update(part, self.flat.gradients[part.where], lr, scale=scale, zero_grad=zero_grad)
        self.end()

    def begin(self) -> None:
        """Count the step in both halves."""
        super().begin()
        self.adamw.steps = self.steps

    def update(self, part: Part, g: Array, lr: float, *, scale: float, zero_grad: bool) -> None:
        """The formulas of the class, on one parameter."""
        self._update([part], [g], lr, scale, zero_grad)

    def _update(
        self, parts: Sequence[Part], gradients: Sequence[Array], lr: float, scale: float, zero_grad: bool
    ) -> None:
        ends = list(accumulate(part.where.stop - part.where.start for part in parts))
        steps = backend.array_module(self.m).empty(ends[-1], self.m.dtype)
        places = [steps[start:stop] for start, stop in zip([0, *ends], ends, strict=False)]
        for part, g, place in zip(parts, gradients, places, strict=True):
            self._write_direction(place, part, g, scale, zero_grad)
        shapes = [shape for part in parts for shape in self._shapes[part.where.start]]
        orthogonalize_all(steps, shapes, may_round=self.flat.compute is not None)
        for part, place in zip(parts, places, strict=True):
            start = 0
            for shape in self._shapes[part.where.start]:
                stop = start + shape[0] * shape[1]
                where = slice(part.where.start + start, part.where.start + stop)
                self._move(part._replace(where=where, shape=shape), place[start:stop], lr, scale)
                start = stop

    def _write_direction(self, place: Array, part: Part, g: Array, scale: float, zero_grad: bool) -> None:
        """m, brought up to date; or that and a look ahead. Its length does not matter: it becomes orthogonal."""
        m = self.m[part.own]
        if (kernels := self.gpu_kernels()) is not None:
            step = self._told(kernels, part, 0.0, 0.0, scale, zero_grad)
            kernels.muon_momentum(place, g, m, momentum=self.momentum, nesterov=self.nesterov, step=step)
            return
        xp = backend.array_module(m)
        new = xp.multiply(g, (1 - self.momentum) * scale, out=place)
        m *= self.momentum
        m += new
        if self.nesterov:
            new += self.momentum * m
        else:
            place[...] = m
        if zero_grad:
            g[...] = 0

    def _move(self, part: Part, orthogonal: Array, lr: float, scale: float) -> None:
        """w ← w − lr λ w − lr 0.2 √max(rows, columns) orthogonal, lr of the hidden matrices. Writes to `orthogonal`."""
        w, size = self.flat.parameters[part.where], 0.2 * max(part.shape) ** 0.5
        if (kernels := self.gpu_kernels()) is not None:
            step = self._told(kernels, part, lr, self.lr_ratio * self.weight_decay, scale, False)
            kernels.muon_apply(w, orthogonal, size=self.lr_ratio * size, step=step)
            return
        rate = lr * self.lr_ratio
        if self.weight_decay:
            w *= 1 - rate * self.weight_decay
        orthogonal *= rate * size
        w -= orthogonal

    def update_parameter(self, name: str, gradient: Array, lr: float) -> None:
        """Change one parameter by the half that it belongs to: see Optimizer.update_parameter."""
        if name in self.places:
            super().update_parameter(name, gradient, lr)
        else:
            self.adamw.update_parameter(name, gradient, lr)

    def count(self, steps: int) -> None:
        """See Optimizer.count."""
        self.steps = self.adamw.steps = steps

    def hyper(self, lr: float) -> list[float]:
        """AdamW's."""
        return self.adamw.hyper(lr)

    def read_from(self, hyper: Array | None, step: Array | None) -> None:
        """See Optimizer.read_from."""
        super().read_from(hyper, step)
        self.adamw.read_from(hyper, step)

    def changed(self) -> list[Array]:
        """Those of both halves."""
        return [*super().changed(), *(self.adamw._arrays if self.gpu_kernels() is None else [])]

    def _state(self) -> dict[str, Array]:
        return self._named("momentum", self.m) | self.adamw._state()


def _check_hidden(flat: FlatParameters, hidden: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless each of `hidden` is a matrix of `flat`, and its parts are all of it."""
    if not hidden:
        raise ValueError("Muon: no hidden matrix was named")
    for name, rows in hidden.items():
        if name not in flat.named or flat.named[name].ndim != 2:
            raise ValueError(f"Muon: {name} is no matrix of this model")
        if sum(rows) != len(flat.named[name]):
            raise ValueError(f"Muon: {name} has {len(flat.named[name])} rows, but its parts have {rows}")
