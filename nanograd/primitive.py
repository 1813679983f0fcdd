"""Floor 1. What makes an operation out of two formulas: `@primitive` for the value, `@op.backward` for the slope."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from nanograd import backend, watch
from nanograd.backend import Array, ArrayModule, accumulator, describe, is_floating
from nanograd.tensor import Node, Rule, Tensor, is_recording
from nanograd.widening import is_narrow, widened

Value: TypeAlias = tuple[Array, tuple[Any, ...]]  # what a forward returns: y, and what its backward wants to see again
Needs: TypeAlias = tuple[bool, ...]  # which array inputs want a gradient: the others may be answered with None

_PLAIN = (int, float, bool, type(None))  # operands that have no dtype to disagree about


class Primitive:
    """A differentiable operation: a formula on arrays and its derivative, with graph-building around them.

    `op(x, …)` takes and returns tensors; `op.formula.forward(np, array, …)` is the bare formula.
    Arrays are positional, settings keyword-only. A primitive without a backward (a comparison, say) passes no gradient.
    The result has the floating-point type of the inputs, unless one of the settings is `dtype`.
    Twins are faster pairs with the same meaning (nanograd/kernels): the first that takes the arrays runs.

    widens  for numbers of 16 bits the formula runs in float32 (widening.py); False for one that only moves numbers
    rounds  the result has 16 bits then; False for a loss, which stays float32
    """

    def __init__(
        self, forward: Callable[..., tuple[Array, tuple[Any, ...]]], *, widens: bool = True, rounds: bool = True
    ) -> None:
        functools.update_wrapper(self, forward)
        signature = inspect.signature(forward)
        self.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])
        self.name = forward.__name__
        self.widens, self.rounds = widens, rounds
        self.formula = Rule(forward, None)
        self.twins: dict[ArrayModule, list[Rule]] = {}

    def backward(self, derivative: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: the formula that turns dy into one gradient for each array input (None where there is none)."""
        self.formula = Rule(self.formula.forward, derivative)
        return derivative

    def twin(
        self,
        xp: ArrayModule,
        forward: Callable[..., Any],
        backward: Callable[..., Any] | None,
        *,
        accumulates: bool = False,
    ) -> None:
        """Register a faster pair for arrays of module `xp`. Its forward answers NotImplemented for what it can't do.

        accumulates  the backward takes `into`, for each array input a gradient array to add to, or None, and answers
                     ADDED for each one that it has added its share to. The array is a leaf's, or waits to be complete
        """
        self.twins.setdefault(xp, []).append(Rule(forward, backward, accumulates))

    def __get__(self, instance: Tensor | None, owner: type) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *inputs: Any, **settings: Any) -> Tensor:
        arrays = [x.data if isinstance(x, Tensor) else x for x in inputs]
        xp, dtype = self._common_ground(arrays)
        try:
            if watch.watcher is None:
                y, saved, rule = self.fastest(xp, arrays, settings)
            else:
                y, saved, rule = watch.watcher.operation(self, xp, arrays, settings)
        except (ValueError, IndexError, TypeError) as error:
            kind = next(k for k in (IndexError, TypeError, ValueError) if isinstance(error, k))
            raise kind(f"{self.name}: {error}, given {', '.join(map(describe, arrays))}") from error
        out = Tensor(np.asarray(y) if isinstance(y, np.generic) else y)
        y_type = out.data.dtype
        if y_type.kind == "f" or is_floating(y_type):
            if y_type is not dtype and (dtype is None or y_type != dtype) and "dtype" not in settings:
                out.data = self._in_one_type(out.data, dtype, arrays)
            if self.formula.backward is not None and is_recording():
                parents = tuple([x.node if isinstance(x, Tensor) else None for x in inputs])
                if any(parents):
                    out.node = Node(out.data, rule, parents, saved, settings)
        return out

    def fastest(self, xp: ArrayModule, arrays: list[Any], settings: dict[str, Any]) -> tuple[Array, Any, Rule]:
        """y, what backward needs, and the pair that made them: the first twin that takes the arrays, or the formula."""
        if self.twins and backend.kernels_enabled():
            for rule in self.twins.get(xp, ()):
                answer = rule.forward(xp, *arrays, **settings)
                if answer is not NotImplemented:
                    return *answer, rule
        rule = self.formula
        for x in arrays:
            if type(x) not in _PLAIN and x.dtype.itemsize == 2 and self.widens and is_narrow(x):
                rule = widened(self.formula, rounds=self.rounds)
        return *rule.forward(xp, *arrays, **settings), rule

    def _common_ground(self, arrays: list[Any]) -> tuple[ArrayModule, Any]:
        """numpy or cupy, and the one floating-point type: an operation mixes neither modules nor such types."""
        first: Array = None
        floating: Array = None
        for i, x in enumerate(arrays):
            if type(x) is not np.ndarray:
                x = arrays[i] = self._operand(i, x)
                if type(x) in _PLAIN:
                    continue
            if first is None:
                first = x
            elif type(x) is not type(first):
                raise TypeError(f"{self.name}: {describe(first)} and {describe(x)} live on different devices")
            if x.dtype.kind == "f" or is_floating(x.dtype):
                if floating is None:
                    floating = x
                elif x.dtype != floating.dtype:
                    raise TypeError(f"{self.name}: {describe(floating)} meets {describe(x)}; cast one with astype")
        xp = backend.array_module(first) if first is not None else np
        return xp, None if floating is None else floating.dtype

    def _in_one_type(self, y: Array, dtype: Any, arrays: list[Any]) -> Array:
        """Only integers went in: NumPy answers in float64, we in float32. A float32 that grew is an error."""
        if dtype is None:
            return y.astype(np.float32)
        if not self.rounds and y.dtype == accumulator(dtype):
            return y
        operands = " and ".join(map(describe, arrays))
        raise TypeError(f"{self.name}: {operands} would give {y.dtype}; cast one with astype, to stay in {dtype}")

    def _operand(self, i: int, x: Any) -> Any:
        """What is not simply a NumPy array: a CuPy array, a plain number, a NumPy scalar, a memory map."""
        if type(x) in _PLAIN or backend.array_module(x) is not np:
            return x
        if isinstance(x, np.generic):
            return x.item()  # as a NumPy scalar it would turn float32 into float64 (NEP 50)
        if isinstance(x, np.ndarray):
            return np.asarray(x)
        raise TypeError(f"{self.name}: operand {i} is {describe(x)}; give an array or a Tensor")


primitive = Primitive  # as a decorator it reads better in lower case
mover = functools.partial(Primitive, widens=False)  # of what only moves numbers: right in any type
loss_primitive = functools.partial(Primitive, rounds=False)
