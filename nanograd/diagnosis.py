"""Floor 5. Where a step went bad: its batches are run once more, and every layer's output and gradient is looked at."""

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

from nanograd import backend, watch
from nanograd.backend import Array, ArrayModule
from nanograd.data import Batch
from nanograd.host_step import shares_of_loss
from nanograd.models import DecoderLM
from nanograd.nn import Module, Parameter
from nanograd.optim.clip import LONGEST, sum_of_squares
from nanograd.settings import TrainConfig
from nanograd.tensor import Tensor

HARDWARE = "taken again, the same step was finite: suspect the machine's memory or processor"


def first_bad_layer(model: DecoderLM, batches: Sequence[Batch], dropout_calls: int, config: TrainConfig) -> str:
    """Run a step's batches forward and backward; the layer that is the first to give what is no number, in words.

    dropout_calls  as they were before the step: the masks are the same. Afterwards everything is as before, but that
    gradients are zero: they must be so at the beginning too, or missing.
    """
    calls, model.dropout_keys.calls = model.dropout_keys.calls, dropout_calls
    try:
        with _Outputs(model) as outputs, _Gradients(model) as gradients:
            for loss in shares_of_loss(model, batches, config):
                if not outputs.first:
                    loss.backward()
                if found := outputs.first or gradients.first:
                    return f"first not finite: {found}"
            return gradients.longest()
    finally:
        model.dropout_keys.calls = calls


class _Outputs:
    """Inside the block every operation and every module of the model is looked at. `first` names the first bad one."""

    def __init__(self, model: DecoderLM) -> None:
        self.first, self._inside, self._model = "", list[str](), model
        self._names = {id(parameter.data): name for name, parameter in model.named_parameters()}
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> "_Outputs":
        self._before, watch.watcher = watch.watcher, self
        for path, module in self._model.named_modules():
            own = vars(module).get("forward")
            self._undo.append(functools.partial(_put_back, module, own))
            module.forward = self._watched(path, module.forward)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        watch.watcher = self._before
        for undo in self._undo:
            undo()

    def _watched(self, path: str, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def watched(*inputs: Any, **settings: Any) -> Tensor:
            self._inside.append(path)
            try:
                y = forward(*inputs, **settings)
            finally:
                self._inside.pop()
            if not self.first and not _is_finite(y.data):
                self.first = f"the output of {path}"
            return y

        return watched

    def operation(
        self, op: Any, xp: ArrayModule, arrays: list[Array], settings: dict[str, Any]
    ) -> tuple[Array, Any, Any]:
        """See watch.Watcher. What `where` puts in may be −∞: scores that are hidden."""
        y, saved, rule = op.fastest(xp, arrays, settings)
        if not self.first and op.name != "where" and not _is_finite(y):
            self.first = self._tell(op.name, arrays)
        return y, saved, rule

    def part(self, name: str) -> AbstractContextManager[None]:
        """See watch.Watcher."""
        return nullcontext()

    def _tell(self, op: str, arrays: list[Array]) -> str:
        for array in arrays:
            if id(array) in self._names and not _is_finite(array):
                return f"the numbers of {self._names[id(array)]} themselves"
        return f"the output of {self._inside[-1] if self._inside else type(self._model).__name__} ({op})"


class _Gradients:
    """Inside the block each parameter's gradient is looked at as soon as it is complete."""

    def __init__(self, model: DecoderLM) -> None:
        self.first, self._squares = "", dict[str, float]()
        self._named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]

    def __enter__(self) -> "_Gradients":
        self._before = [(parameter.grad is None, parameter.node.complete) for _, parameter in self._named]  # type: ignore[union-attr]
        for name, parameter in self._named:
            parameter.when_complete(functools.partial(self._look, name, parameter))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for (_, parameter), (was_missing, complete) in zip(self._named, self._before, strict=True):
            parameter.when_complete(complete)
            if was_missing:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad[...] = 0

    def _look(self, name: str, parameter: Parameter) -> None:
        if parameter.grad is None:
            return
        self._squares[name] = sum_of_squares(parameter.grad.reshape(-1))
        if not self.first and not math.isfinite(self._squares[name]):
            self.first = f"the gradient of {name}"

    def longest(self) -> str:
        """Where all are finite, their squares may still be too large."""
        if math.sqrt(sum(self._squares.values())) <= LONGEST:
            return HARDWARE
        name = max(self._squares, key=self._squares.__getitem__)
        return f"the longest gradient is that of {name}: {math.sqrt(self._squares[name]):.2g}"


def _put_back(module: Module, forward: Callable[..., Tensor] | None) -> None:
    del module.forward
    if forward is not None:
        module.forward = forward


def _is_finite(x: Array) -> bool:
    return not backend.is_floating(x.dtype) or bool(backend.array_module(x).isfinite(x).all())
