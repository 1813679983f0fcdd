"""Rotary positions: queries and keys are turned by angles that grow with their position, so that the product of a query
and a key depends on how far apart they stand, and not on where.   Su et al. 2021, RoFormer, arXiv:2104.09864

A head of width D is D/2 pairs of numbers. At position m pair i is turned by the angle m θᵢ,  θᵢ = base^(−2i/D):

    y₁ = x₁ cos − x₂ sin        pairs   x₁, x₂ = x[2i], x[2i + 1]: the paper's; GPT-J, Meta's Llama
    y₂ = x₁ sin + x₂ cos        halves  x₁, x₂ = x[i], x[i + D/2]: GPT-NeoX, Llama as Hugging Face keeps it

With a scaling θᵢ are others, for longer contexts: see pre_process/encode_position/rotary_scaling.py. Backward turns by
the opposite angle. Angles are computed in float64: position 100,000 is a whole turn to one part in 10⁷ only there.
"""

from typing import Any, TypeAlias

from nanograd.backend import Array, ArrayModule
from nanograd.primitive import Needs, Value, primitive
from pre_process.encode_position.rotary import Layout
from pre_process.encode_position.rotary_scaling import Scaling, scaled_frequencies

MaybeScaling: TypeAlias = Scaling | None


@primitive
def rotary(
    xp: ArrayModule,
    x: Array,
    positions: Array,
    *,
    base: float = 10_000.0,
    layout: Layout = "halves",
    scaling: MaybeScaling = None,
) -> Value:
    """Every head turned.   x (…, T, D), positions integers that broadcast to (…, T) → (…, T, D)"""
    positions = xp.asarray(positions)
    check(positions, x.shape[:-1], x.shape[-1] if x.ndim else 1, base, layout)
    y = xp.empty(x.shape, x.dtype)
    _turn(x, *cos_and_sin(xp, positions, x, x.shape[-1], base, scaling), layout, y)
    return y, (positions,)


@rotary.backward
def _(
    xp: ArrayModule,
    dy: Array,
    positions: Array,
    *,
    base: float = 10_000.0,
    layout: Layout = "halves",
    scaling: MaybeScaling = None,
    needs: Needs,
) -> Any:
    dx = xp.empty(dy.shape, dy.dtype)
    cos, sin = cos_and_sin(xp, positions, dy, dy.shape[-1], base, scaling)
    _turn(dy, cos, -sin, layout, dx)
    return dx, None


@primitive
def packed_rotary(
    xp: ArrayModule,
    qkv: Array,
    positions: Array,
    *,
    n_heads: int,
    base: float = 10_000.0,
    layout: Layout = "halves",
    scaling: MaybeScaling = None,
) -> Value:
    """Queries and keys turned, values as they are.   qkv (B, T, 3C) as in packed_attention, positions (T,) or (B, T)"""
    positions = xp.asarray(positions)
    check_packed(qkv, positions, n_heads, base, layout)
    return _turn_packed(xp, qkv, positions, n_heads, base, layout, scaling, forwards=True), (positions,)


@packed_rotary.backward
def _(
    xp: ArrayModule,
    dy: Array,
    positions: Array,
    *,
    n_heads: int,
    base: float = 10_000.0,
    layout: Layout = "halves",
    scaling: MaybeScaling = None,
    needs: Needs,
) -> Any:
    return _turn_packed(xp, dy, positions, n_heads, base, layout, scaling, forwards=False), None


def check(positions: Array, rows: tuple[int, ...], D: int, base: float, layout: str) -> None:
    """Raise TypeError or ValueError unless these heads of width D, one for each of `rows`, can be turned."""
    if positions.dtype.kind not in "iu":
        raise TypeError("positions must be integers")
    lengths = zip(reversed(positions.shape), reversed(rows), strict=False)
    if not rows or positions.ndim > len(rows) or any(n not in (1, m) for n, m in lengths):
        raise ValueError(f"positions {positions.shape} must broadcast to {rows}")
    if D % 2:
        raise ValueError(f"a head of width {D} can't be cut into pairs")
    if not base > 0 or layout not in ("halves", "pairs"):
        raise ValueError(f"base {base} must be above 0, and layout 'halves' or 'pairs', not {layout!r}")


def check_packed(qkv: Array, positions: Array, n_heads: int, base: float, layout: str) -> None:
    """The same for packed queries, keys and values."""
    if qkv.ndim != 3 or n_heads < 1 or qkv.shape[-1] % (3 * n_heads):
        raise ValueError(f"qkv must be (B, T, 3 · n_heads · D), n_heads={n_heads}")
    check(positions, qkv.shape[:2], qkv.shape[2] // (3 * n_heads), base, layout)


def cos_and_sin(
    xp: ArrayModule, positions: Array, x: Array, D: int, base: float, scaling: MaybeScaling
) -> tuple[Array, Array]:
    """cos m θᵢ and sin m θᵢ for all positions m and pairs i: positions.shape + (D/2,), in the type of x"""
    theta = base ** (xp.arange(0, D, 2) / -D)
    if scaling is None:
        angles = positions[..., None] * theta
        return xp.cos(angles).astype(x.dtype), xp.sin(angles).astype(x.dtype)
    angles = positions[..., None] * scaled_frequencies(theta, base=base, scaling=scaling)
    cos, sin = scaling.amplitude * xp.cos(angles), scaling.amplitude * xp.sin(angles)
    return cos.astype(x.dtype), sin.astype(x.dtype)


def _turn(x: Array, cos: Array, sin: Array, layout: Layout, y: Array) -> None:
    """y = x, each pair turned.   x, y (…, D), cos and sin broadcast to (…, D/2)"""
    D = x.shape[-1]
    first, second = (slice(0, D // 2), slice(D // 2, D)) if layout == "halves" else (slice(0, D, 2), slice(1, D, 2))
    x1, x2 = x[..., first], x[..., second]
    y[..., first] = x1 * cos - x2 * sin
    y[..., second] = x1 * sin + x2 * cos


def _turn_packed(
    xp: ArrayModule,
    qkv: Array,
    positions: Array,
    n_heads: int,
    base: float,
    layout: Layout,
    scaling: MaybeScaling,
    *,
    forwards: bool,
) -> Array:
    B, T, width = qkv.shape
    heads = qkv.reshape(B, T, 3, n_heads, width // (3 * n_heads))
    y = xp.empty(heads.shape, qkv.dtype)
    cos, sin = cos_and_sin(xp, positions[..., None, None], qkv, heads.shape[-1], base, scaling)
    _turn(heads[:, :, :2], cos, sin if forwards else -sin, layout, y[:, :, :2])
    y[:, :, 2] = heads[:, :, 2]
    return y.reshape(qkv.shape)
