"""a < b and its kin: boolean tensors. They are steps, so no gradient passes through them."""

from nanograd.backend import Array, ArrayModule
from nanograd.primitive import Value, primitive


@primitive
def greater(xp: ArrayModule, a: Array, b: Array) -> Value:
    """a > b"""
    return a > b, ()


@primitive
def greater_equal(xp: ArrayModule, a: Array, b: Array) -> Value:
    """a ≥ b"""
    return a >= b, ()


@primitive
def less(xp: ArrayModule, a: Array, b: Array) -> Value:
    """a < b"""
    return a < b, ()


@primitive
def less_equal(xp: ArrayModule, a: Array, b: Array) -> Value:
    """a ≤ b"""
    return a <= b, ()


@primitive
def equal(xp: ArrayModule, a: Array, b: Array) -> Value:
    """a = b, number by number (`tensor == tensor` asks whether they are the same object)"""
    return a == b, ()


@primitive
def not_equal(xp: ArrayModule, a: Array, b: Array) -> Value:
    """a ≠ b, number by number"""
    return a != b, ()
