"""The same numbers in another arrangement. The gradient is the arrangement undone."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, SupportsIndex

from nanograd.backend import Array, ArrayModule
from nanograd.ops.indexing import getitem
from nanograd.primitive import Needs, Value, mover
from nanograd.tensor import Tensor


@mover
def reshape(xp: ArrayModule, x: Array, *, shape: tuple[int, ...]) -> Value:
    """The numbers of x, read row by row, in `shape`; one length may be −1 (whatever is left)"""
    return x.reshape(shape), (x.shape,)


@reshape.backward
def _(xp: ArrayModule, dy: Array, original: tuple[int, ...], *, shape: tuple[int, ...], needs: Needs) -> Any:
    return dy.reshape(original)


@mover
def transpose(xp: ArrayModule, x: Array, *, axes: tuple[int, ...] | None = None) -> Value:
    """Axis i of y is axis axes[i] of x; None reverses them all"""
    return x.transpose(axes), (x.ndim,)


@transpose.backward
def _(xp: ArrayModule, dy: Array, ndim: int, *, axes: tuple[int, ...] | None = None, needs: Needs) -> Any:
    if axes is None:
        return dy.transpose()
    places = [axis % ndim for axis in axes]
    return dy.transpose([places.index(i) for i in range(ndim)])


@mover
def swapaxes(xp: ArrayModule, x: Array, *, axis1: int, axis2: int) -> Value:
    """x with two axes exchanged"""
    return x.swapaxes(axis1, axis2), ()


@swapaxes.backward
def _(xp: ArrayModule, dy: Array, *, axis1: int, axis2: int, needs: Needs) -> Any:
    return dy.swapaxes(axis1, axis2)


@mover
def expand(xp: ArrayModule, x: Array, *, shape: tuple[int, ...]) -> Value:
    """x repeated along new axes and along axes of length 1 until it has `shape` (a view, not a copy)"""
    return xp.broadcast_to(x, shape), ()


@expand.backward
def _(xp: ArrayModule, dy: Array, *, shape: tuple[int, ...], needs: Needs) -> Any:
    return dy  # the engine sums over what was repeated


@mover
def squeeze(xp: ArrayModule, x: Array, *, axis: int | tuple[int, ...] | None = None) -> Value:
    """x without its axes of length 1 (all of them, or the named ones)"""
    return x.squeeze(axis), (x.shape,)


@squeeze.backward
def _(xp: ArrayModule, dy: Array, original: Any, *, axis: int | tuple[int, ...] | None = None, needs: Needs) -> Any:
    return dy.reshape(original)


@mover
def expand_dims(xp: ArrayModule, x: Array, *, axis: int | tuple[int, ...]) -> Value:
    """x with new axes of length 1 at the named places of the result"""
    return xp.expand_dims(x, axis), (x.shape,)


@expand_dims.backward
def _(xp: ArrayModule, dy: Array, original: Any, *, axis: int | tuple[int, ...], needs: Needs) -> Any:
    return dy.reshape(original)


@mover
def flip(xp: ArrayModule, x: Array, *, axis: int | tuple[int, ...] | None = None) -> Value:
    """x read backwards along the named axes (None: all)"""
    return xp.flip(x, axis), ()


@flip.backward
def _(xp: ArrayModule, dy: Array, *, axis: int | tuple[int, ...] | None = None, needs: Needs) -> Any:
    return xp.flip(dy, axis)


@mover
def pad(xp: ArrayModule, x: Array, *, widths: Sequence[tuple[int, int]], value: float = 0.0) -> Value:
    """x framed with `value`: widths[i] = (before, after) for axis i"""
    if len(widths) != x.ndim:
        raise ValueError(f"{len(widths)} pairs of widths for {x.ndim} axes")
    return xp.pad(x, widths, constant_values=value), (x.shape,)


@pad.backward
def _(xp: ArrayModule, dy: Array, original: Any, *, widths: Any, value: float = 0.0, needs: Needs) -> Any:
    return dy[tuple(slice(before, before + n) for (before, _), n in zip(widths, original, strict=True))]


@mover
def concatenate(xp: ArrayModule, *arrays: Array, axis: int = 0) -> Value:
    """The arrays one after the other along an axis that they all have"""
    return xp.concatenate(arrays, axis=axis), ([x.shape[axis] for x in arrays],)


@concatenate.backward
def _(xp: ArrayModule, dy: Array, lengths: list[int], *, axis: int = 0, needs: Needs) -> Any:
    along = xp.moveaxis(dy, axis, 0)
    bounds = accumulate(lengths, initial=0)
    return tuple(xp.moveaxis(along[start:stop], 0, axis) for start, stop in pairwise(bounds))


@mover
def stack(xp: ArrayModule, *arrays: Array, axis: int = 0) -> Value:
    """Arrays of one shape, side by side along a new axis"""
    return xp.stack(arrays, axis=axis), ()


@stack.backward
def _(xp: ArrayModule, dy: Array, *, axis: int = 0, needs: Needs) -> Any:
    along = xp.moveaxis(dy, axis, 0)
    return tuple(along[i, ...] for i in range(len(needs)))


def split(x: Any, sections: SupportsIndex | Sequence[int], *, axis: int = 0) -> tuple[Tensor, ...]:
    """x cut along an axis: into `sections` equal parts, or into parts of the lengths in `sections`.

    Raises ValueError unless the lengths add up to the axis.
    """
    if not -x.ndim <= axis < x.ndim:
        raise IndexError(f"split: there is no axis {axis} in {tuple(x.shape)}")
    n = x.shape[axis]
    sections = int(sections) if isinstance(sections, SupportsIndex) else sections
    if isinstance(sections, int) and (sections < 1 or n % sections):
        raise ValueError(f"split: {n} along axis {axis} of {tuple(x.shape)} can't be cut into {sections} equal parts")
    lengths = [n // sections] * sections if isinstance(sections, int) else list(sections)
    if sum(lengths) != n or min(lengths, default=0) < 0:
        raise ValueError(f"split: lengths {lengths} don't add up to {n}, axis {axis} of {tuple(x.shape)}")
    before = (slice(None),) * (axis % x.ndim)
    bounds = accumulate(lengths, initial=0)
    return tuple(getitem(x, index=(*before, slice(start, stop))) for start, stop in pairwise(bounds))
