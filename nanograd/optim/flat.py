"""Floor 4. All parameters of a module in one flat array, and all their gradients in another.

    parameters  [ matrices: weight decay applies … | gains and biases: it doesn't … ]
    gradients   [ the same places … ]

After packing, `parameter.data` and `parameter.grad` are views. `backward` adds into the views, so clipping is one
norm, an optimizer is a few passes over one array, and an all-reduce would be one call.

A module that computes in 16 bits has a third array, and its `parameter.data` are views of that one: small steps would
be lost in weights of 8 or 11 bits, so optimizers move the float32 numbers, the master weights, and round them anew.
    compute     [ the same places, in 16 bits … ]
Micikevicius et al., "Mixed precision training", 2018, arXiv:1710.03740, §3.1
"""

import contextlib
from collections.abc import Iterator
from typing import NoReturn

from nanograd import backend
from nanograd.backend import Array
from nanograd.nn.module import Module, Parameter
from nanograd.precision import Precision, float_type, round_into, rounding_key
from nanograd.tensor import Tensor


class FlatParameters:
    """Packs what a module can learn. The module stays usable as before; move it to its device first.

    parameters, gradients  (N,) arrays that own the numbers from now on, float32
    compute                (N,) what the module computes with, in 16 bits; None where that is `parameters`
    decayed                slice of the parameters with two or more axes: those that weight decay applies to
    not_decayed            slice of the rest: biases and gains

    with_gradients=False leaves the gradients out, for an optimizer that takes each as soon as it is there: fused.py
    precision  bf16 or fp16: the whole module is cast, what it does not learn too
    seed       of the chance by which weights are rounded to bf16: see precision.round_into
    """

    def __init__(
        self, module: Module, *, with_gradients: bool = True, precision: Precision = "float32", seed: int = 0
    ) -> None:
        named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        named.sort(key=lambda item: item[1].ndim < 2)  # stable: matrices first, otherwise in the module's order
        _check_alike(named)
        self.named: dict[str, Parameter] = dict(named)
        xp = backend.array_module(named[0][1].data)
        self.parameters: Array = xp.concatenate([parameter.data.reshape(-1) for _, parameter in named])
        self.gradients: Array = xp.zeros_like(self.parameters) if with_gradients else None
        n_decayed = sum(parameter.size for _, parameter in named if parameter.ndim >= 2)
        self.decayed, self.not_decayed = slice(0, n_decayed), slice(n_decayed, len(self.parameters))
        self.seed = seed
        self.compute: Array | None = None
        self._fixed: list[tuple[Tensor, Array]] = []  # what is not learned, and its float32 numbers
        if precision != "float32":
            self._cast_the_rest(module, precision)
            self.compute = xp.empty(self.parameters.shape, float_type(precision))
            self.refresh(0)
        data = self.split(self.parameters if self.compute is None else self.compute)
        grads: dict[str, Array] = self.split(self.gradients) if with_gradients else dict.fromkeys(self.named)
        for name, parameter in named:
            if parameter.grad is not None and with_gradients:
                grads[name][...] = parameter.grad
            parameter.data, parameter.grad = data[name], grads[name]
        self._views = [(name, parameter, data[name], grads[name]) for name, parameter in named]

    def _cast_the_rest(self, module: Module, precision: Precision) -> None:
        learned = set(self.named.values())
        for tensor in (*dict(module.named_parameters()).values(), *dict(module.named_buffers()).values()):
            if tensor not in learned and backend.is_floating(tensor.dtype):
                self._fixed.append((tensor, tensor.data))
                tensor.data = tensor.data.astype(float_type(precision))

    def refresh(self, step: int | Array | None = None) -> None:
        """Round what the module computes with from the float32 numbers: for bf16 by the chance of this optimizer step,
        or to the nearest for None. Where there are no 16 bits: nothing."""
        if self.compute is not None:
            round_into(self.compute, self.parameters, None if step is None else rounding_key(self.seed, step))

    @contextlib.contextmanager
    def in_float32(self) -> Iterator[None]:
        """Inside this block the module's tensors hold the float32 numbers, to be saved or loaded: `refresh` then."""
        if self.compute is None:
            yield
            return
        masters = self.split(self.parameters)
        wide = [*((parameter, masters[name]) for name, parameter in self.named.items()), *self._fixed]
        narrow = [tensor.data for tensor, _ in wide]
        for tensor, array in wide:
            tensor.data = array
        try:
            yield
        finally:
            for (tensor, _), array in zip(wide, narrow, strict=True):
                tensor.data = array
            for tensor, array in self._fixed:
                tensor.data[...] = array.astype(tensor.dtype)

    @contextlib.contextmanager
    def holding(self, numbers: Array) -> Iterator[None]:
        """Inside this block the parameters are `numbers` (N,); afterwards what they were before, bit for bit."""
        before = self.parameters.copy(), None if self.compute is None else self.compute.copy()
        self.parameters[...] = numbers
        self.refresh()
        try:
            yield
        finally:
            self.parameters[...] = before[0]
            if self.compute is not None:
                self.compute[...] = before[1]

    def split(self, flat: Array) -> dict[str, Array]:
        """name → view into `flat` (N,) with the shape of that parameter."""
        return {name: flat[where].reshape(shape) for name, where, shape in self.places()}

    def places(self) -> Iterator[tuple[str, slice, tuple[int, ...]]]:
        """(name, slice of the flat arrays, shape) for each parameter, in their order there."""
        start = 0
        for name, parameter in self.named.items():
            yield name, slice(start, start + parameter.size), parameter.shape
            start += parameter.size

    def zero_grad(self) -> None:
        """All gradients to zero, in one pass."""
        self.gradients[...] = 0

    def check_views(self) -> None:
        """Raise RuntimeError if somebody gave a parameter another array: training it here would change nothing."""
        for name, parameter, data, grad in self._views:
            if parameter.data is not data or parameter.grad is not grad:
                raise RuntimeError(f"{name} left its flat buffer: call to()/astype() before packing, and zero_grad()")

    def __reduce__(self) -> NoReturn:
        """Copying or pickling would make each view an array of its own, and training the copy would change nothing."""
        raise TypeError("FlatParameters can't be copied: copy the module and pack the copy")


def _check_alike(named: list[tuple[str, Parameter]]) -> None:
    if not named:
        raise ValueError("FlatParameters: the module has no parameter that requires a gradient")
    kinds = {(str(parameter.dtype), parameter.device) for _, parameter in named}
    if len(kinds) > 1:
        raise ValueError(f"FlatParameters: parameters must share one dtype and device, not {sorted(kinds)}")
    if (dtype := named[0][1].dtype).itemsize == 2:
        raise ValueError(f"FlatParameters: a {dtype} module can't learn: pack a float32 one, with precision=")
