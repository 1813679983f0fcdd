"""y = f(x) or y = f(a, b), one number at a time. Broadcasting is undone by the engine."""

from typing import Any

from nanograd.backend import Array, ArrayModule, special_functions
from nanograd.primitive import Needs, Value, mover, primitive


@primitive
def add(xp: ArrayModule, a: Array, b: Array) -> Value:
    """y = a + b"""
    return a + b, ()


@add.backward
def _(xp: ArrayModule, dy: Array, *, needs: Needs) -> Any:
    return dy, dy


@primitive
def sub(xp: ArrayModule, a: Array, b: Array) -> Value:
    """y = a − b"""
    return a - b, ()


@sub.backward
def _(xp: ArrayModule, dy: Array, *, needs: Needs) -> Any:
    return dy, -dy if needs[1] else None


@primitive
def mul(xp: ArrayModule, a: Array, b: Array) -> Value:
    """y = a b"""
    return a * b, (a, b)


@mul.backward
def _(xp: ArrayModule, dy: Array, a: Array, b: Array, *, needs: Needs) -> Any:
    return dy * b if needs[0] else None, dy * a if needs[1] else None


@primitive
def div(xp: ArrayModule, a: Array, b: Array) -> Value:
    """y = a / b"""
    return a / b, (a, b)


@div.backward
def _(xp: ArrayModule, dy: Array, a: Array, b: Array, *, needs: Needs) -> Any:
    """da = dy / b,  db = −dy a / b²"""
    return dy / b if needs[0] else None, -dy * a / b / b if needs[1] else None


@primitive
def neg(xp: ArrayModule, x: Array) -> Value:
    """y = −x"""
    return -x, ()


@neg.backward
def _(xp: ArrayModule, dy: Array, *, needs: Needs) -> Any:
    return -dy


@primitive
def abs(xp: ArrayModule, x: Array) -> Value:  # noqa: A001
    """y = |x|"""
    return xp.abs(x), (x,)


@abs.backward
def _(xp: ArrayModule, dy: Array, x: Array, *, needs: Needs) -> Any:
    """dx = dy sign x, and 0 at x = 0"""
    return dy * xp.sign(x)


@primitive
def power(xp: ArrayModule, a: Array, b: Array) -> Value:
    """y = aᵇ; b is a number or an array"""
    return a**b, (a, b)


@power.backward
def _(xp: ArrayModule, dy: Array, a: Array, b: Array, *, needs: Needs) -> Any:
    """da = dy b aᵇ⁻¹ (0 where b = 0),  db = dy aᵇ ln a (0 where a = 0: there aᵇ is constant in b)"""
    da = db = None
    if needs[0]:
        da = dy * (b * a ** (b - 1 + (b == 0)))  # where b = 0 the exponent is 0, not −1: 0 · 0⁻¹ would be nan
    if needs[1]:
        a = xp.asarray(a, dtype=dy.dtype)  # the logarithm of a plain number would be a float64
        db = dy * a**b * xp.log(a + (a == 0))
    return da, db


@primitive
def exp(xp: ArrayModule, x: Array) -> Value:
    """y = eˣ"""
    y = xp.exp(x)
    return y, (y,)


@exp.backward
def _(xp: ArrayModule, dy: Array, y: Array, *, needs: Needs) -> Any:
    return dy * y


@primitive
def log(xp: ArrayModule, x: Array) -> Value:
    """y = ln x"""
    return xp.log(x), (x,)


@log.backward
def _(xp: ArrayModule, dy: Array, x: Array, *, needs: Needs) -> Any:
    return dy / x


@primitive
def sqrt(xp: ArrayModule, x: Array) -> Value:
    """y = √x"""
    y = xp.sqrt(x)
    return y, (y,)


@sqrt.backward
def _(xp: ArrayModule, dy: Array, y: Array, *, needs: Needs) -> Any:
    """dx = dy / 2√x"""
    return 0.5 * dy / y


@primitive
def tanh(xp: ArrayModule, x: Array) -> Value:
    """y = (eˣ − e⁻ˣ) / (eˣ + e⁻ˣ)"""
    y = xp.tanh(x)
    return y, (y,)


@tanh.backward
def _(xp: ArrayModule, dy: Array, y: Array, *, needs: Needs) -> Any:
    return dy * (1 - y * y)


@primitive
def erf(xp: ArrayModule, x: Array) -> Value:
    """y = 2/√π ∫₀ˣ exp(−t²) dt"""
    return erf_of(xp, x), (x,)


@erf.backward
def _(xp: ArrayModule, dy: Array, x: Array, *, needs: Needs) -> Any:
    """dx = dy · 2/√π · exp(−x²)"""
    return dy * (1.1283791670955126 * xp.exp(-x * x))


def erf_of(xp: ArrayModule, x: Array) -> Array:
    """erf of an array in the array's own type: SciPy answers float16 with float32"""
    return special_functions(xp).erf(x).astype(x.dtype, copy=False)


@primitive
def maximum(xp: ArrayModule, a: Array, b: Array) -> Value:
    """y = max(a, b); where they are equal, each receives half of the gradient"""
    return xp.maximum(a, b), (a, b)


@maximum.backward
def _(xp: ArrayModule, dy: Array, a: Array, b: Array, *, needs: Needs) -> Any:
    share = 0.5 * ((a > b).astype(dy.dtype) + (a >= b))
    return dy * share if needs[0] else None, dy * (1 - share) if needs[1] else None


@primitive
def minimum(xp: ArrayModule, a: Array, b: Array) -> Value:
    """y = min(a, b); where they are equal, each receives half of the gradient"""
    return xp.minimum(a, b), (a, b)


@minimum.backward
def _(xp: ArrayModule, dy: Array, a: Array, b: Array, *, needs: Needs) -> Any:
    share = 0.5 * ((a < b).astype(dy.dtype) + (a <= b))
    return dy * share if needs[0] else None, dy * (1 - share) if needs[1] else None


@primitive
def clip(xp: ArrayModule, x: Array, *, low: float | None = None, high: float | None = None) -> Value:
    """y = x, but at least `low` and at most `high` (None: no bound on that side)"""
    y = x if low is None else xp.maximum(x, low)
    return y if high is None else xp.minimum(y, high), (x,)


@clip.backward
def _(
    xp: ArrayModule, dy: Array, x: Array, *, low: float | None = None, high: float | None = None, needs: Needs
) -> Any:
    """dx = dy inside the bounds and on them, 0 outside"""
    dx = dy if low is None else dy * (x >= low)
    return dx if high is None else dx * (x <= high)


@primitive
def where(xp: ArrayModule, condition: Array, a: Array, b: Array) -> Value:
    """y = a where the condition holds, b elsewhere"""
    return xp.where(condition, a, b), (condition,)


@where.backward
def _(xp: ArrayModule, dy: Array, condition: Array, *, needs: Needs) -> Any:
    return None, xp.where(condition, dy, 0) if needs[1] else None, xp.where(condition, 0, dy) if needs[2] else None


@mover
def cast(xp: ArrayModule, x: Array, *, dtype: Any) -> Value:
    """The same numbers in another floating-point type"""
    return x.astype(dtype), (x.dtype,)


@cast.backward
def _(xp: ArrayModule, dy: Array, original: Any, *, dtype: Any, needs: Needs) -> Any:
    return dy.astype(original)
