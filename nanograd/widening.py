"""Floor 1. Formulas on numbers of 16 bits: computed in float32 and rounded once, so that none has to know of them.

bfloat16 is the upper half of a float32: its range, but 8 bits of precision. float16 has 11 bits, and ends at 65,504. A
sum of a few thousand such numbers would be wrong in the first digit. So an array of 16 bits is widened, the formula
runs in float32, and its result is rounded to the type that came in. For backward are kept: inputs and result as they
were, in 16 bits; statistics in float32.
"""

from typing import Any

import numpy as np

from nanograd.backend import Array, ArrayModule, is_floating
from nanograd.tensor import Rule


def is_narrow(x: Any) -> bool:
    """Is it an array of floating-point numbers of 16 bits?"""
    return hasattr(x, "dtype") and x.dtype.itemsize == 2 and is_floating(x.dtype)


def widen(x: Any) -> Any:
    """An array of 16 bits as float32; anything else as it is."""
    return x.astype(np.float32) if is_narrow(x) else x


def widened(formula: Rule, *, rounds: bool) -> Rule:
    """The pair for arrays of which some have 16 bits.

    rounds  the result gets their type; False: it stays float32, as a loss does
    Gradients stay float32: the engine rounds those of activations and adds up those of parameters as they are.
    """

    def forward(xp: ArrayModule, *arrays: Any, **settings: Any) -> tuple[Array, tuple[Any, ...]]:
        wide = [widen(x) for x in arrays]
        y, saved = formula.forward(xp, *wide, **settings)
        as_they_were = {id(w): x for w, x in zip(wide, arrays, strict=True)}
        if rounds and y.dtype == np.float32:
            narrow = y.astype(next(x.dtype for x in arrays if is_narrow(x)))
            as_they_were[id(y)] = narrow
            return narrow, tuple(as_they_were.get(id(x), x) for x in saved)
        return y, tuple(as_they_were.get(id(x), x) for x in saved)

    def backward(xp: ArrayModule, dy: Array, *saved: Any, **settings: Any) -> Any:
        return formula.backward(xp, widen(dy), *map(widen, saved), **settings)  # type: ignore[misc]

    return Rule(forward, None if formula.backward is None else backward)
