"""Floor 4. All parameters of a module in one flat array, and all their gradients in another.

    parameters  [ matrices: weight decay applies … | gains and biases: it doesn't … ]
    gradients   [ the same places … ]

After packing, `parameter.data` and `parameter.grad` are views. `backward` adds into the views, so clipping is one
norm, an optimizer is a few passes over one array, and an all-reduce would be one call.
"""

from collections.abc import Iterator
from typing import NoReturn

from nanograd import backend
from nanograd.backend import Array
from nanograd.nn.module import Module, Parameter


class FlatParameters:
    """Packs what a module can learn. The module stays usable as before; move it to its device first.

    parameters, gradients  (N,) arrays that own the numbers from now on
    decayed                slice of the parameters with two or more axes: those that weight decay applies to
    not_decayed            slice of the rest: biases and gains

    with_gradients=False leaves the gradients out, for an optimizer that takes each as soon as it is there: fused.py
    """

    def __init__(self, module: Module, *, with_gradients: bool = True) -> None:
        named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        named.sort(key=lambda item: item[1].ndim < 2)  # stable: matrices first, otherwise in the module's order
        _check_alike(named)
        self.named: dict[str, Parameter] = dict(named)
        xp = backend.array_module(named[0][1].data)
        self.parameters: Array = xp.concatenate([parameter.data.reshape(-1) for _, parameter in named])
        self.gradients: Array = xp.zeros_like(self.parameters) if with_gradients else None
        n_decayed = sum(parameter.size for _, parameter in named if parameter.ndim >= 2)
        self.decayed, self.not_decayed = slice(0, n_decayed), slice(n_decayed, len(self.parameters))
        data = self.split(self.parameters)
        grads: dict[str, Array] = self.split(self.gradients) if with_gradients else dict.fromkeys(self.named)
        for name, parameter in named:
            if parameter.grad is not None and with_gradients:
                grads[name][...] = parameter.grad
            parameter.data, parameter.grad = data[name], grads[name]
        self._views = [(name, parameter, data[name], grads[name]) for name, parameter in named]

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
