"""The table of contents: every operation nanograd can differentiate, and the operators and methods of Tensor.

To add an operation: write its pair in the file of its family, name it here, give it a Case in tests/cases.py.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nanograd.backend import is_floating
from nanograd.ops.activation import gelu, relu, relu_squared, sigmoid, silu, swiglu
from nanograd.ops.attention import attention, attention_weights, packed_attention
from nanograd.ops.comparison import equal, greater, greater_equal, less, less_equal, not_equal
from nanograd.ops.dropout import dropout
from nanograd.ops.elementwise import (
    abs,  # noqa: A004
    add,
    cast,
    clip,
    div,
    erf,
    exp,
    log,
    maximum,
    minimum,
    mul,
    neg,
    power,
    sqrt,
    sub,
    tanh,
    where,
)
from nanograd.ops.head_norm import packed_head_norm
from nanograd.ops.indexing import embedding, getitem
from nanograd.ops.loss import cross_entropy, linear_cross_entropy
from nanograd.ops.matrix import linear, matmul
from nanograd.ops.mlp import mlp
from nanograd.ops.normalization import derf, dyt, layer_norm, rms_norm
from nanograd.ops.quantized import quantized_linear
from nanograd.ops.reduction import logsumexp, max, mean, min, sum, var  # noqa: A004
from nanograd.ops.rotary import packed_rotary, rotary
from nanograd.ops.shape import (
    concatenate,
    expand,
    expand_dims,
    flip,
    pad,
    reshape,
    split,
    squeeze,
    stack,
    swapaxes,
    transpose,
)
from nanograd.ops.softmax import log_softmax, softmax
from nanograd.primitive import Primitive
from nanograd.tensor import Tensor

unsqueeze = expand_dims  # PyTorch's name


def _swapped(op: Primitive) -> Callable[[Any, Any], Tensor]:
    """`1 - x` calls x.__rsub__(1)."""
    return lambda x, other: op(other, x)


def _over_axes(op: Primitive) -> Callable[..., Tensor]:
    """x.sum(), x.sum(1), x.sum(axis=(0, 2), keepdims=True)"""
    return lambda x, axis=None, **settings: op(x, axis=axis, **settings)


def _several(numbers: tuple[Any, ...]) -> tuple[int, ...]:
    """x.reshape(2, 3) and x.reshape((2, 3)) mean the same."""
    return tuple(numbers[0]) if len(numbers) == 1 and not isinstance(numbers[0], int | np.integer) else numbers


def _plain(index: Any) -> Any:
    """An index may hold integer tensors."""
    if isinstance(index, tuple):
        return tuple(map(_plain, index))
    return index.data if isinstance(index, Tensor) else index


def _astype(x: Tensor, dtype: Any) -> Tensor:
    """A cast to integers or booleans is a step: no gradient passes."""
    return cast(x, dtype=dtype) if is_floating(np.dtype(dtype)) else Tensor(x.data.astype(dtype))


def _same_object(x: Tensor, other: Any) -> bool:
    """== asks whether two tensors are one object, as sets, dictionaries and `in` need it."""
    if other is None or isinstance(other, Tensor):
        return x is other
    raise TypeError(f"tensor == {type(other).__name__}: ops.equal(x, y) compares numbers, one by one")


def _rows(x: Tensor) -> Iterator[Tensor]:
    return (x[i] for i in range(len(x)))


_OPERATORS_AND_METHODS: dict[str, Any] = {
    "__add__": add,
    "__radd__": _swapped(add),
    "__sub__": sub,
    "__rsub__": _swapped(sub),
    "__mul__": mul,
    "__rmul__": _swapped(mul),
    "__truediv__": div,
    "__rtruediv__": _swapped(div),
    "__pow__": power,
    "__rpow__": _swapped(power),
    "__matmul__": matmul,
    "__rmatmul__": _swapped(matmul),
    "__neg__": neg,
    "__abs__": abs,
    "__gt__": greater,
    "__ge__": greater_equal,
    "__lt__": less,
    "__le__": less_equal,
    "__eq__": _same_object,
    "__getitem__": lambda x, index: getitem(x, index=_plain(index)),
    "__iter__": _rows,
    "exp": exp,
    "log": log,
    "sqrt": sqrt,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "relu": relu,
    "sum": _over_axes(sum),
    "mean": _over_axes(mean),
    "max": _over_axes(max),
    "min": _over_axes(min),
    "var": _over_axes(var),
    "logsumexp": _over_axes(logsumexp),
    "softmax": lambda x, axis=-1, **settings: softmax(x, axis=axis, **settings),
    "log_softmax": lambda x, axis=-1, **settings: log_softmax(x, axis=axis, **settings),
    "clip": lambda x, low=None, high=None: clip(x, low=low, high=high),
    "reshape": lambda x, *shape: reshape(x, shape=_several(shape)),
    "transpose": lambda x, *axes: transpose(x, axes=_several(axes) if axes and axes != (None,) else None),
    "T": property(lambda x: transpose(x)),
    "swapaxes": lambda x, axis1, axis2: swapaxes(x, axis1=axis1, axis2=axis2),
    "expand": lambda x, *shape: expand(x, shape=_several(shape)),
    "squeeze": lambda x, axis=None: squeeze(x, axis=axis),
    "unsqueeze": lambda x, axis: unsqueeze(x, axis=axis),
    "flip": lambda x, axis=None: flip(x, axis=axis),
    "split": split,
    "astype": _astype,
}
for _name, _method in _OPERATORS_AND_METHODS.items():
    setattr(Tensor, _name, _method)
