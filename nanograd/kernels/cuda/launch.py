"""Floor 3. Kernels by name, on whatever device the arrays are; and the twins that call them.

    launch(xp, "softmax_forward_bf16", rows, 256, x, y, C, 1.0)

For the real CuPy the kernel is compiled for the device and runs on the current stream. Any other array module says by
`register` how its kernels run: the tests' stand-in for CuPy runs them in the emulator.
"""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cuda.compile import architecture, cubin
from nanograd.kernels.cuda.sources import FOLDER, TYPES, source_of

Size: TypeAlias = int | tuple[int, ...]
Launcher: TypeAlias = Callable[[str, tuple[int, ...], tuple[int, ...], tuple[Any, ...], int], None]

STATIC_LIMIT = 48 * 1024  # bytes of shared memory; a kernel that wants more has to say so before its launch

_launchers: dict[ArrayModule, Launcher] = {}
_with_twins: set[ArrayModule] = set()


class Twin(NamedTuple):
    """A pair of functions that launch kernels, and the operation whose formula they stand for (see Primitive.twin)."""

    op: Any
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    accumulates: bool = False


def register(xp: ArrayModule, launcher: Launcher) -> None:
    """From now on kernels on arrays of `xp` are launched by launcher(name, grid, block, arguments, shared)."""
    _launchers[xp] = launcher


def forget(xp: ArrayModule) -> None:
    """Undo `register` and `register_twins`."""
    _launchers.pop(xp, None)
    _with_twins.discard(xp)
    for twin in _twins():
        twin.op.twins.pop(xp, None)


def launch(xp: ArrayModule, kernel: str, grid: Size, block: Size, *arguments: Any, shared: int = 0) -> None:
    """Start `grid` blocks of `block` threads each; nothing is started if one of the sizes is 0.

    arguments  arrays, None (a null pointer), int and bool (the kernel's int), float and float64 (its float),
               other NumPy scalars as they are, structured ones too: a struct of the same fields, by value
    shared     bytes of dynamic shared memory for each block
    """
    grid, block = _sizes(grid), _sizes(block)
    if 0 not in grid:
        _launchers.get(xp, functools.partial(_launch_cupy, xp))(kernel, grid, block, arguments, shared)


def type_name(dtype: Any) -> str | None:
    """How a kernel's name ends for numbers of this type: 'f32', 'bf16', 'f16'; None for any other type."""
    return _TYPE_NAMES.get(np.dtype(dtype).name)


_TYPE_NAMES = dict(zip(("float32", "bfloat16", "float16"), TYPES, strict=True))


def aligned(*arrays: Array | None) -> bool:
    """Are these arrays (or None) in one piece and, as new ones are, at an address that 16 divides?"""
    return all(x is None or (x.flags.c_contiguous and x.data.ptr % 16 == 0) for x in arrays)


def register_twins(xp: ArrayModule) -> None:
    """Give all operations their twins for arrays of `xp`. Twice is once."""
    if xp not in _with_twins:
        _with_twins.add(xp)
        for twin in _twins():
            twin.op.twin(xp, twin.forward, twin.backward, accumulates=twin.accumulates)


def _twins() -> Iterator[Twin]:
    """The TWINS of every module in this folder."""
    for module in pkgutil.iter_modules([str(FOLDER)]):
        yield from getattr(importlib.import_module(f"nanograd.kernels.cuda.{module.name}"), "TWINS", ())


def has_twins(xp: ArrayModule) -> bool:
    """Whether `register_twins` was called for this module."""
    return xp in _with_twins


def _sizes(size: Size) -> tuple[int, ...]:
    return (size, 1, 1) if isinstance(size, int) else (*size, *(1,) * (3 - len(size)))


def _launch_cupy(
    xp: ArrayModule, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: Any, shared: int
) -> None:
    function = _function(xp, kernel, xp.cuda.runtime.getDevice())
    if shared + function.shared_size_bytes > STATIC_LIMIT and function.max_dynamic_shared_size_bytes < shared:
        function.max_dynamic_shared_size_bytes = shared
    function(grid, block, tuple([_cupy_argument(x) for x in arguments]), shared_mem=shared)


def _cupy_argument(x: Any) -> Any:
    """CuPy would pass Python's numbers, and NumPy's float64, as 64 bits: a kernel would see half of them."""
    if isinstance(x, int):
        return np.int32(x)
    if isinstance(x, float):
        return np.float32(x)
    if isinstance(x, np.void):
        return np.asarray(x)  # CuPy takes a struct as an array with no axes
    return np.uint64(0) if x is None else x


@functools.cache
def _function(xp: ArrayModule, kernel: str, device: int) -> Any:
    return _module(xp, source_of(kernel), device).get_function(kernel)


@functools.cache
def _module(xp: ArrayModule, source: Any, device: int) -> Any:
    """The compiled file on one device: a GPU keeps its own copy of the code."""
    capability = int(xp.cuda.Device(device).compute_capability)
    return xp.RawModule(path=str(cubin(source, architecture(capability))))
