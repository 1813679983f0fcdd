"""Floor 4. What every optimizer has: its places in the flat buffers, a count of its steps, a state to save.

A step is `begin`, then `update` for each stretch of parameters, then `end`. An optimizer that is fused into backward
(fused.py) makes the same calls with one parameter at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any, NamedTuple

import numpy as np

from nanograd import backend
from nanograd.backend import Array
from nanograd.optim.compiled import compiled_for_gpu
from nanograd.optim.flat import FlatParameters
from nanograd.precision import rounding_key

CPU_CHUNK, GPU_CHUNK = 1 << 15, 1 << 24  # elements: six float32 arrays fit the L2 cache; few launches


class Part(NamedTuple):
    """Parameters that lie side by side and are treated alike: one of them, or many."""

    where: slice  # in the flat buffers
    own: slice  # in the optimizer's own arrays, which may belong to some of the parameters only
    shape: tuple[int, ...]
    decays: bool  # whether weight decay applies


class Optimizer(ABC):
    """Changes parameters in place. A subclass writes `update`, and `_state` if it remembers anything.

    names         the parameters that are this optimizer's; None: all of `flat`
    weight_decay  λ in w ← w − lr λ w, for parameters with two or more axes: decoupled from the gradient, whatever the
                  optimizer.   Loshchilov & Hutter, "Decoupled weight decay regularization", 2019
    """

    one_by_one = False  # True: `update` wants one parameter at a time, in its shape
    capturable = False  # True: all that changes from step to step is in `hyper`, so that a CUDA graph can repeat a step
    has_gpu_kernels = False  # True: nanograd/kernels/cuda/optim.py takes its steps, where it can
    hyper_on_device: Array | None = None
    step_on_device: Array | None = None

    def __init__(
        self, flat: FlatParameters, *, weight_decay: float = 0.0, names: Collection[str] | None = None
    ) -> None:
        self.flat, self.weight_decay, self.steps = flat, weight_decay, 0
        self._arrays: list[Array] = []  # whole ones that `_zeros` has made
        self.places = dict(_places(flat, names))
        self.size = sum(prod(part.shape) for part in self.places.values())
        self.parts = list(self.places.values()) if self.one_by_one else _merged(self.places.values())

    def step(self, lr: float, *, scale: float = 1.0, zero_grad: bool = False) -> None:
        """Change the parameters by one update from `scale` · `flat.gradients`.

        scale      a factor that shortens the gradient: see clip_scale. On a GPU it may be an array without axes
        zero_grad  leave zeros in flat.gradients, which otherwise stay as they are: it saves a pass over them
        """
        self.begin()
        lr = self._rate(lr)
        for part in self.parts:
            self.update(part, self.flat.gradients[part.where], lr, scale=scale, zero_grad=zero_grad)
        self.end()

    def begin(self) -> None:
        """Count the step. Raises RuntimeError if a parameter has left its buffer."""
        self.flat.check_views()
        self.steps += 1

    @abstractmethod
    def update(self, part: Part, g: Array, lr: float, *, scale: float, zero_grad: bool) -> None:
        """Change the parameters of `part` in place; g (n,) is their gradient, flat."""

    def update_parameter(self, name: str, gradient: Array, lr: float) -> None:
        """Change one parameter, between `begin` and `end`: bit for bit as `step` would."""
        self.update(self.places[name], gradient.reshape(-1), lr, scale=1.0, zero_grad=False)

    def end(self) -> None:
        """All parameters have been updated: so is what the model computes with, if that is another array."""
        if self.gpu_kernels() is None:  # they have done it on the way
            self.flat.refresh(self._number())

    def hyper(self, lr: float) -> list[float]:
        """The numbers that the next step will use and that change from step to step, lr first.

        A captured CUDA graph repeats its launches with the numbers they were recorded with, so these have to be read
        from device memory: see `read_from`.
        """
        return [lr]

    def read_from(self, hyper: Array | None, step: Array | None) -> None:
        """Have `step` read such numbers from a float32 array on the device instead of its arguments, and the number of
        the step, by which weights are rounded, from a uint64 without axes; None: no more."""
        self.hyper_on_device, self.step_on_device = hyper, step

    def _rate(self, lr: float) -> Any:
        return lr if self.hyper_on_device is None else self.hyper_on_device[0]

    def gpu_kernels(self) -> Any | None:
        """The module of kernels that take this optimizer's steps on a GPU, or None: then the formulas do."""
        suits = self.has_gpu_kernels and self.flat.parameters.dtype == np.float32
        return compiled_for_gpu(self.flat.parameters, "optim") if suits else None

    def _told(self, kernels: Any, part: Part, lr: Any, decay: float, scale: Any, zero_grad: bool) -> Any:
        """What those kernels want to know, whatever the optimizer."""
        copy = None if self.flat.compute is None else self.flat.compute[part.where]
        key = rounding_key(self.flat.seed, self._number())
        return kernels.Step(lr, decay, scale, zero_grad, part.where.start, copy, *key)

    def _number(self) -> Any:
        return self.steps if self.step_on_device is None else self.step_on_device

    def changed(self) -> list[Array]:
        """The arrays that a step changes even if its `scale` is a 0 on a GPU, which says that it is not to be taken.

        All but the gradients, where formulas take the step; none, where kernels do, for they look at it.
        """
        if self.gpu_kernels() is not None:
            return []
        return [self.flat.parameters, *([] if self.flat.compute is None else [self.flat.compute]), *self._arrays]

    def averaged(self) -> AbstractContextManager[None]:
        """Inside this block the parameters hold what a model should be judged by: here, the weights themselves."""
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """'steps' and 'm.NAME', … for each parameter: NumPy arrays, on the CPU the live ones."""
        return {"steps": np.asarray(self.steps)} | {name: backend.to_host(x) for name, x in self._state().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken. Raises ValueError, before any change, if names or shapes misfit."""
        views = self._state()
        for name, view in {"steps": np.asarray(0), **views}.items():
            if name not in state:
                raise ValueError(f"optimizer state: {name} is missing")
            if tuple(state[name].shape) != view.shape:
                raise ValueError(
                    f"optimizer state: {name} has shape {tuple(state[name].shape)}, the model's is {view.shape}"
                )
        if unknown := sorted(set(state) - set(views) - {"steps"}):
            raise ValueError(f"optimizer state: {unknown[0]} is not a part of {type(self).__name__}'s")
        for name, view in views.items():
            view[...] = backend.to_device(state[name], backend.device_of(view))
        self.count(int(state["steps"]))

    def count(self, steps: int) -> None:
        """Go on as after so many steps: the arrays are the caller's business."""
        self.steps = steps

    def _state(self) -> dict[str, Array]:
        """name → view of everything that changes from step to step, but for the count of steps."""
        return {}

    def _zeros(self) -> Array:
        """(size,) zeros: a number for each of this optimizer's parameters."""
        self._arrays.append(backend.array_module(self.flat.parameters).zeros(self.size, self.flat.parameters.dtype))
        return self._arrays[-1]

    def _named(self, letter: str, own: Array) -> dict[str, Array]:
        """'LETTER.NAME' → view into `own` (size,) with the shape of that parameter."""
        return {f"{letter}.{name}": own[part.own].reshape(part.shape) for name, part in self.places.items()}

    def _chunk(self) -> int:
        return CPU_CHUNK if backend.array_module(self.flat.parameters) is np else GPU_CHUNK

    def _in_chunks(self, *arrays: Array) -> Iterator[list[Array]]:
        """Pieces of equally long arrays, one after the other: temporaries then are as small, and stay in the cache."""
        chunk = self._chunk()
        for start in range(0, len(arrays[0]), chunk):
            yield [x[start : start + chunk] for x in arrays]


def _places(flat: FlatParameters, names: Collection[str] | None) -> Iterator[tuple[str, Part]]:
    start = 0
    for name, where, shape in flat.places():
        if names is None or name in names:
            stop = start + where.stop - where.start
            yield name, Part(where, slice(start, stop), shape, decays=len(shape) >= 2)
            start = stop


def _merged(parts: Collection[Part]) -> list[Part]:
    """The same places in as few parts as possible."""
    runs: list[Part] = []
    for part in parts:
        if runs and runs[-1].where.stop == part.where.start and runs[-1].decays == part.decays:
            where, own = (slice(a.start, b.stop) for a, b in zip(runs[-1][:2], part[:2], strict=True))
            runs[-1] = Part(where, own, (where.stop - where.start,), part.decays)
        else:
            runs.append(part)
    return runs
