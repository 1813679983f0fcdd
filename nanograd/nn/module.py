"""Floor 4. Modules: things with parameters, and things made of such things."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import numpy as np

from nanograd import backend
from nanograd.backend import Array
from nanograd.tensor import Tensor


class Parameter(Tensor):
    """A tensor that the optimizer may change."""

    __slots__ = ()

    def __init__(self, data: Any) -> None:
        super().__init__(data, requires_grad=True)


class Buffer(Tensor):
    """An array that belongs to a module but is not learned: it moves with the module and is saved with it."""

    __slots__ = ()
    persistent = True


class Constant(Buffer):
    """A buffer that is not saved, because the module's settings say what it holds."""

    __slots__ = ()
    persistent = False


class Module:
    """A tree of parameters. Attributes that are parameters, buffers, modules, or lists of them are its branches.

    Nothing is registered: the tree is found by reading `vars(self)` when somebody asks. A subclass assigns its
    branches in `__init__` and writes `forward`; calling the module calls `forward`.
    """

    training = True
    forward: Callable[..., Tensor]

    def __call__(self, *inputs: Any, **settings: Any) -> Tensor:
        return self.forward(*inputs, **settings)

    def named_modules(self) -> Iterator[tuple[str, "Module"]]:
        """('', self), then ('blocks.0', …), ('blocks.0.norm_1', …): each module once, parents before children."""
        seen: set[int] = set()
        waiting: list[tuple[str, Module]] = [("", self)]
        while waiting:
            path, module = waiting.pop()
            if id(module) not in seen:
                seen.add(id(module))
                yield path, module
                children = [(name, child) for name, child in _branches(module) if isinstance(child, Module)]
                waiting += [(_join(path, name), child) for name, child in reversed(children)]

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Each parameter once, under the first name that leads to it: tied weights are not counted twice."""
        return ((name, tensor) for name, tensor in self._named_tensors() if isinstance(tensor, Parameter))

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """Each buffer once."""
        return ((name, tensor) for name, tensor in self._named_tensors() if isinstance(tensor, Buffer))

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, tensor in _branches(module):
                if isinstance(tensor, Tensor) and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield _join(path, name), tensor

    def n_parameters(self) -> int:
        """How many numbers can be learned."""
        return sum(parameter.size for _, parameter in self.named_parameters())

    def nbytes(self) -> int:
        """Bytes of all parameters and buffers, each counted once."""
        return sum(tensor.data.nbytes for _, tensor in self._named_tensors())

    def train(self, mode: bool = True) -> Self:
        """Training behaviour (dropout on) for this module and all below it."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Evaluation behaviour: the same input gives the same output, bit for bit."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Fill every gradient with zeros; the arrays stay, so that views into a flat buffer stay valid."""
        for _, parameter in self.named_parameters():
            if parameter.grad is not None:
                parameter.grad[...] = 0

    def to(self, device: str) -> Self:
        """Move parameters, gradients and buffers to 'cpu' or 'cuda:N'. Do it before optimizers pack them."""
        return self._replace_arrays(lambda x: backend.to_device(x, device))

    def astype(self, dtype: Any) -> Self:
        """Convert every floating-point array; float64 is for gradient checks. Gradients stay at least float32."""
        self._replace_arrays(lambda x: x.astype(dtype, copy=False) if backend.is_floating(x.dtype) else x)
        for _, parameter in self.named_parameters():
            if parameter.grad is not None:
                parameter.grad = parameter.grad.astype(backend.accumulator(dtype), copy=False)
        return self

    def _replace_arrays(self, change: Callable[[Array], Array]) -> Self:
        for _, tensor in self._named_tensors():
            tensor.data = change(tensor.data)
            tensor.grad = None if tensor.grad is None else change(tensor.grad)
        return self

    def _state(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self._named_tensors() if getattr(tensor, "persistent", True)}

    def state_dict(self) -> dict[str, Any]:
        """name → NumPy array, for parameters and persistent buffers. On the CPU the arrays are the live ones."""
        return {name: tensor.numpy() for name, tensor in self._state().items()}

    def load_state_dict(self, arrays: Mapping[str, Any], *, strict: bool = True) -> None:
        """Copy `arrays` (as from `state_dict`) into this module. On an error nothing has changed.

        strict=False leaves out names that only one side has.
        Raises ValueError for missing or unexpected names, and for a shape or kind of number that differs.
        """
        state = self._state()
        if strict:
            _check_names(set(state), set(arrays))
        shared = [name for name in state if name in arrays]
        for name in shared:
            _check_array(name, state[name].data, arrays[name])
        for name in shared:
            data = state[name].data
            data[...] = backend.to_device(arrays[name], backend.device_of(data))


def _branches(module: Module) -> Iterator[tuple[str, Tensor | Module]]:
    for name, value in vars(module).items():
        yield from _leaves(name, value)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Tensor | Module]]:
    if isinstance(value, (Parameter, Buffer, Module)):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _leaves(f"{name}.{i}", item)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _check_names(ours: set[str], theirs: set[str]) -> None:
    problems = []
    for title, names in (("missing", sorted(ours - theirs)), ("unexpected", sorted(theirs - ours))):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"{title} {', '.join(names[:3])}{more}")
    if problems:
        raise ValueError(f"load_state_dict: {'; '.join(problems)}")


def _check_array(name: str, ours: Array, theirs: Any) -> None:
    if tuple(theirs.shape) != ours.shape:
        raise ValueError(f"load_state_dict: {name} has shape {tuple(theirs.shape)}, this model wants {ours.shape}")
    if np.dtype(theirs.dtype).kind != ours.dtype.kind:
        raise ValueError(f"load_state_dict: {name} holds {theirs.dtype} numbers, this model wants {ours.dtype}")
