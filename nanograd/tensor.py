"""Floor 1. The engine: tensors remember how they were made, and `backward` walks that memory.

    y = op(x, w)            y.node ──parents──▶ x.node, w.node
    loss.backward()         newest node first: read its gradient, ask its rule for the parents' gradients, free it

A node is always newer than its parents, so "newest first" visits every node after all of its users.
That matters: in `b = a + a; c = b + b` the gradient of b must be complete before a may have its share.
"""

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nanograd import backend, watch
from nanograd.backend import Array, describe

_recording = ContextVar("recording", default=True)
_order = itertools.count()


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Inside this block (or decorated function) operations are computed but not remembered."""
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


@contextlib.contextmanager
def enable_grad() -> Iterator[None]:
    """Inside this block (or decorated function) operations are remembered, even within a `no_grad`."""
    token = _recording.set(True)
    try:
        yield
    finally:
        _recording.reset(token)


def is_recording() -> bool:
    """False inside `no_grad`."""
    return _recording.get()


class Rule(NamedTuple):
    """A forward and the backward that can read what it saved. They are only ever used together."""

    forward: Callable[..., Any]
    backward: Callable[..., Any] | None
    accumulates: bool = False  # its backward can add to a leaf's gradient itself


ADDED = object()  # a backward's answer for an input whose gradient it has already added to
PASSED_ON = object()  # its answer where the gradient is dy itself, if no other answer holds a part of dy


class Node:
    """One remembered step. It holds what `backward` needs and nothing else: no inputs, no output."""

    __slots__ = (
        *("complete", "dtype", "grad", "leaf", "order", "owned", "parents"),
        *("rule", "saved", "settings", "shape", "walked"),
    )

    def __init__(
        self,
        y: Array,
        rule: Rule | None = None,
        parents: "Sequence[Node | None]" = (),
        saved: tuple[Any, ...] = (),
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.order = next(_order)
        self.shape, self.rule, self.parents, self.saved, self.settings = y.shape, rule, parents, saved, settings or {}
        self.dtype = y.dtype if rule is not None else backend.accumulator(y.dtype)  # of its gradient
        self.grad: Array | None = None
        self.owned = self.walked = False
        self.leaf: weakref.ref[Tensor] | None = None  # the tensor whose .grad keeps this node's gradient
        self.complete: Callable[[], None] | None = None  # see Tensor.when_complete

    def receive(self, dy: Array, owned: bool = False) -> None:
        """Add a gradient. The first is never written to, unless it is ours: it may be shared with other nodes."""
        if dy.dtype is not self.dtype and 2 in (dy.dtype.itemsize, self.dtype.itemsize) and dy.dtype != self.dtype:
            dy, owned = dy.astype(self.dtype), True
        if self.grad is None:
            self.grad, self.owned = dy, owned
        elif self.owned:
            self.grad += dy
        else:
            self.grad, self.owned = self.grad + dy, True

    def step_back(self) -> None:
        """Pass this node's gradient to its leaf and to its parents, then forget everything."""
        dy, self.grad = self.grad, None
        if dy is not None:  # else no user gave one: it is not differentiable (a mask, say), or a leaf's own has it all
            if self.leaf is not None and (tensor := self.leaf()) is not None:
                _accumulate(tensor, dy, self.owned)
            if self.rule is not None:
                self.pass_on(dy, self.rule)
        if self.complete is not None:
            self.complete()

    def pass_on(self, dy: Array, rule: Rule) -> None:
        """Ask the rule for the parents' gradients."""
        xp, needs = backend.array_module(dy), tuple([parent is not None for parent in self.parents])
        extra = {"into": tuple([_target(parent) for parent in self.parents])} if rule.accumulates else {}
        dxs = rule.backward(xp, dy, *self.saved, needs=needs, **extra, **self.settings)  # type: ignore[misc]
        parents, self.parents, self.saved, self.walked = self.parents, (), (), True
        for parent, dx in zip(parents, dxs if type(dxs) is tuple else (dxs,), strict=True):
            if parent is None or dx is None or dx is ADDED:
                continue
            if dx is PASSED_ON:
                parent.receive(dy, self.owned and self.leaf is None)
            else:
                parent.receive(_unbroadcast(dx, parent.shape))


class Tensor:
    """An array, plus the node that says where it came from.

    data  numpy or cupy array; Python numbers and lists become float32 (integers and booleans keep their kind)
    grad  an array like `data`, filled by `backward` on leaves; gradients add up until `zero_grad`, and as sums they are
          float32 for `data` of 16 bits
    """

    __slots__ = ("__weakref__", "data", "grad", "node")
    __array_ufunc__ = None  # lets `array + tensor` reach Tensor.__radd__

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        self.data: Array = _as_array(data)
        self.grad: Array | None = None
        self.node: Node | None = None
        if requires_grad:
            self.requires_grad = True

    @property
    def requires_grad(self) -> bool:
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if not self.is_leaf:
            raise RuntimeError("requires_grad can only be changed on a leaf; use detach() to cut a computed tensor off")
        if wanted and not backend.is_floating(self.data.dtype):
            raise TypeError(f"only floating-point tensors can require a gradient, not {self.data.dtype}")
        self.node = Node(self.data) if wanted else None
        if self.node is not None:
            self.node.leaf = weakref.ref(self)

    @property
    def is_leaf(self) -> bool:
        """True unless an operation made this tensor out of others that require a gradient."""
        return self.node is None or self.node.rule is None

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)
    device = property(lambda self: backend.device_of(self.data))

    def numpy(self) -> Any:
        """The numbers as a NumPy array: shared with this tensor on the CPU, copied from a GPU."""
        return backend.to_host(self.data)

    def item(self) -> Any:
        """The only number of a one-element tensor, as a Python number."""
        return self.data.item()

    def detach(self) -> "Tensor":
        """The same array without its history."""
        return Tensor(self.data)

    def retain_grad(self) -> None:
        """Ask `backward` to leave a gradient on this tensor although it is not a leaf."""
        if self.node is None:
            raise RuntimeError("retain_grad: this tensor does not require a gradient")
        self.node.leaf = weakref.ref(self)

    def when_complete(self, call: Callable[[], None] | None) -> None:
        """Have each `backward` call this as soon as nothing more will be added to this leaf's gradient, nor its numbers
        be read again: `call` may change them, and drop the gradient. None: no longer.

        What nn.recompute hides is not foreseen: a parameter used inside and outside of it is complete twice.
        """
        if self.node is None or not self.is_leaf:
            raise RuntimeError("when_complete: only a leaf that requires a gradient has one that can be complete")
        self.node.complete = call

    def backward(self, dy: Array | None = None) -> None:
        """Add d⟨self, dy⟩/d(leaf) to `leaf.grad` for every leaf, and free the graph on the way.

        dy  array of this tensor's shape and dtype; may be left out for a one-element tensor (it is 1).
        Gradients are plain arrays: there is no derivative of a derivative.
        Raises RuntimeError, before anything has changed, if a part of the graph was walked before.
        """
        if self.node is None:
            raise RuntimeError("backward: this tensor does not depend on any tensor that requires a gradient")
        with watch.part("backward"):
            walk(self.node, self._first_gradient(dy), owned=dy is None)

    def _first_gradient(self, dy: Array | None) -> Array:
        if dy is None:
            if self.data.size != 1:
                raise RuntimeError(f"backward: only one element has a default gradient, not shape {self.shape}")
            return backend.array_module(self.data).ones_like(self.data)
        dy = dy.data if isinstance(dy, Tensor) else dy
        xp = backend.array_module(self.data)
        if not hasattr(dy, "dtype") or backend.array_module(dy) is not xp:
            raise TypeError(f"backward: the gradient must be an array on {self.device}, not {describe(dy)}")
        if dy.shape != self.shape or dy.dtype != self.dtype:
            raise ValueError(f"backward: gradient {describe(dy)} for a tensor {describe(self.data)}")
        return dy

    def __getstate__(self) -> tuple[Array, Array | None, bool]:
        """What copy and pickle take along. A copy must get a node of its own: the old one fills the old `.grad`."""
        if not self.is_leaf:
            raise RuntimeError("only leaves can be copied or pickled; detach() this computed tensor first")
        return self.data, self.grad, self.requires_grad

    def __setstate__(self, state: tuple[Array, Array | None, bool]) -> None:
        self.data, self.grad, wanted = state
        self.node = None
        self.requires_grad = wanted

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """np.asarray(tensor): the numbers, if they are on the CPU. CuPy raises TypeError: use `numpy()`."""
        return np.asarray(self.data, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"Tensor({self.data!r}{', requires_grad=True' if self.requires_grad else ''})"

    def __len__(self) -> int:
        return len(self.data)

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return float(self.data)

    if TYPE_CHECKING:  # bound in nanograd/ops/__init__.py

        def __getattr__(self, name: str) -> Any: ...
        def __getitem__(self, index: Any) -> "Tensor": ...
        def __add__(self, other: Any) -> "Tensor": ...
        def __radd__(self, other: Any) -> "Tensor": ...
        def __sub__(self, other: Any) -> "Tensor": ...
        def __rsub__(self, other: Any) -> "Tensor": ...
        def __mul__(self, other: Any) -> "Tensor": ...
        def __rmul__(self, other: Any) -> "Tensor": ...
        def __truediv__(self, other: Any) -> "Tensor": ...
        def __rtruediv__(self, other: Any) -> "Tensor": ...
        def __pow__(self, other: Any) -> "Tensor": ...
        def __matmul__(self, other: Any) -> "Tensor": ...
        def __neg__(self) -> "Tensor": ...


def walk(root: Node, dy: Array, *, owned: bool = False, until: Sequence[Node] = ()) -> None:
    """Give `root` its gradient and step back from it and from all that it was made of, but not from `until`.

    owned  nobody else holds `dy`: it may be written to
    """
    nodes = _oldest_first(root, until)
    root.receive(dy if owned else _apart(dy, nodes), owned)
    try:
        while nodes:
            nodes.pop().step_back()
    finally:  # if a rule failed, no half-made gradient may wait in a leaf for the next walk
        for node in nodes:
            node.grad = None


def _oldest_first(root: Node, until: Sequence[Node]) -> list[Node]:
    """Every node reachable from `root`, users behind what they used. No recursion: a graph may be 100,000 deep."""
    seen, stack = {root, *until}, [root]
    while stack:
        node = stack.pop()
        if node.walked:
            raise RuntimeError("backward: this part of the graph was already walked and freed; run the forward again")
        for parent in node.parents:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    nodes = sorted(seen.difference(until), key=attrgetter("order"))
    return _leaves_in_time(nodes) if any(node.complete for node in nodes) else nodes


def _leaves_in_time(nodes: list[Node]) -> list[Node]:
    """The same order, but a leaf whose completion is waited for comes right before its oldest user, not before all."""
    waiting, placed = {node for node in nodes if node.complete}, list[Node]()
    for node in nodes:
        for parent in node.parents:
            if parent in waiting:
                waiting.remove(parent)
                placed.append(parent)
        if not node.complete:
            placed.append(node)
    return [*waiting, *placed]


def _apart(dy: Array, nodes: Sequence[Node]) -> Array:
    """`dy`, or a copy if it is the `.grad` of one of these nodes: what is added there must not change it on the way."""
    xp, leaves = backend.array_module(dy), [node.leaf() for node in nodes if node.leaf is not None]
    grads = [leaf.grad for leaf in leaves if leaf is not None and leaf.grad is not None]
    return dy.copy() if any(xp.may_share_memory(dy, grad) for grad in grads) else dy


def _target(node: Node | None) -> Array | None:
    """A gradient that is there already, a leaf's or one that waits: a rule may add to it instead of making another."""
    if node is None:
        return None
    if node.rule is not None:
        return node.grad if node.owned else None
    tensor = None if node.leaf is None else node.leaf()
    if tensor is not None and tensor.grad is None and node.complete is not None:  # add up as if there had been one
        xp = backend.array_module(tensor.data)
        tensor.grad = xp.zeros(tensor.shape, backend.accumulator(tensor.dtype))
    return None if tensor is None else tensor.grad


def _accumulate(tensor: Tensor, dy: Array, owned: bool) -> None:
    """tensor.grad += dy. NumPy turns the sum of two 0-d arrays into a scalar: asarray makes it an array again."""
    if tensor.grad is not None:
        tensor.grad += dy
    elif owned:
        tensor.grad = backend.array_module(dy).asarray(dy)
    else:
        tensor.grad = backend.array_module(dy).array(dy, order="C")


def _unbroadcast(dx: Array, shape: tuple[int, ...]) -> Array:
    """Sum `dx` over the axes along which an input of this `shape` was repeated."""
    if dx.shape == shape:
        return dx
    extra = dx.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n == 1)
    wide = backend.accumulator(dx.dtype)  # 2048 + 1 is 2048 in float16
    return dx.sum(axis=axes, keepdims=True, dtype=wide).reshape(shape).astype(dx.dtype, copy=False)


def _as_array(data: Any) -> Array:
    if type(data) is np.ndarray or backend.array_module(data) is not np:
        return data
    if isinstance(data, Tensor):
        raise TypeError("Tensor(tensor): use tensor.detach() for the same numbers without history")
    array = np.asarray(data)  # also turns a memory map into the plain array that it is underneath
    if array.dtype.kind not in "fiub":
        raise TypeError(f"Tensor: a {type(data).__name__} that holds {array.dtype} is no array of numbers")
    return array.astype(np.float32) if array.dtype == np.float64 and not isinstance(data, np.ndarray) else array
