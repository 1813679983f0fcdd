"""Floor 4. Activation checkpointing: keep what goes into a module instead of all that it computes on the way.

A stack of L modules then keeps L inputs, and while one of them is walked backward, the activations of that one. The
price is a second forward.   Chen, Xu, Zhang & Guestrin, "Training deep nets with sublinear memory cost", 2016, §3
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from nanograd.backend import Array
from nanograd.nn.module import Module
from nanograd.random import DropoutKeys
from nanograd.tensor import Node, Rule, Tensor, enable_grad, is_recording, no_grad, walk


def recompute(module: Module, *inputs: Any) -> Tensor:
    """module(*inputs): the same value and the same gradients, bit for bit, but only `inputs` are kept for backward.

    inputs  tensors, and whatever else the module takes (a mask): between forward and backward nobody may write to
            them, nor to the module's parameters
    A parameter that is used outside of the module too adds its shares in another order: there, up to rounding.
    Backward draws the same dropout masks again, and leaves the module in the mode it finds it in. Inside `no_grad`, and
    so inside another recomputed module's first forward, there is nothing to keep: this is module(*inputs) alone.
    """
    if not is_recording():
        return module(*inputs)
    surroundings = _Surroundings(module)
    with no_grad():
        y = Tensor(module(*inputs).data)  # a tensor of its own: the module may have returned its input
    parents = tuple(x.node if isinstance(x, Tensor) else None for x in inputs)
    if any(parents) or any(parameter.requires_grad for _, parameter in module.named_parameters()):
        y.node = _Again(y.data, Rule(module, None), parents, (module, inputs, surroundings))
    return y


class _Again(Node):
    """Stands for all the nodes of a module. When a walk comes by, it makes them, and sends the walk through them.

    They are made from the inputs' own nodes, so those receive what they would have, in the same order.
    """

    __slots__ = ()

    def pass_on(self, dy: Array, rule: Rule) -> None:
        """Run the module again and walk it, up to its inputs."""
        module, inputs, surroundings = self.saved
        with enable_grad(), surroundings.again(module):
            root = module(*inputs).node
        if root is not None:  # as it is unless everything was frozen meanwhile
            ends = [parent for parent in self.parents if parent is not None]
            walk(root, dy, owned=self.owned and self.leaf is None, until=ends)
        self.parents, self.saved, self.walked = (), (), True


class _Surroundings:
    """What a forward depends on beside inputs and parameters: the dropout calls so far, and which modules train."""

    def __init__(self, module: Module) -> None:
        modules = [part for _, part in module.named_modules()]
        keys = {id(x): x for part in modules for x in vars(part).values() if isinstance(x, DropoutKeys)}
        self.modes = [(part, part.training) for part in modules]
        self.calls = [(x, x.calls) for x in keys.values()]

    def restore(self) -> None:
        for part, training in self.modes:
            part.training = training
        for keys, calls in self.calls:
            keys.calls = calls

    @contextlib.contextmanager
    def again(self, module: Module) -> Iterator[None]:
        """Inside the block it is as it was then; afterwards as it is now."""
        now = _Surroundings(module)
        self.restore()
        try:
            yield
        finally:
            now.restore()
