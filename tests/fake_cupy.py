"""A stand-in for CuPy on a machine without a GPU: NumPy does the sums, CuPy's rules are kept.

It refuses what CuPy refuses: host and device arrays in one call, a silent copy to the host, a name or an argument
that CuPy does not have. The real CuPy, which can be imported without a driver, is asked which names it has.
And it counts what costs time on a device: launches (results in new memory, and kernels), copies from the host, and
waits for the device (syncs).

    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)        # from now on array_module(fake array) is this module

It wraps NumPy's array instead of inheriting from it, since np.asarray accepts every subclass without a word.
"""

import contextlib
import functools
import inspect
import operator
import sys
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import cupy as real
import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from tests import fake_cuda, fake_memory
from tests.fake_cuda import counts  # "launch", "allocation", "sync", "h2d": since the start, or since a test cleared it

THIS = sys.modules[__name__]
round_trips: list[str] = []  # what each sync and each copy from the host was


class ndarray(NDArrayOperatorsMixin):  # noqa: N801
    """An array that only the device may read. `held` is where the test looks."""

    def __init__(self, held: np.ndarray) -> None:
        self.held = held
        self.device, self.stream = _current[-1], weakref.ref(fake_cuda.get_current_stream())  # where it was allocated

    shape, ndim, dtype, size, nbytes, strides, itemsize, flags = (
        property(operator.attrgetter(f"held.{name}"))
        for name in ("shape", "ndim", "dtype", "size", "nbytes", "strides", "itemsize", "flags")
    )
    T = property(lambda self: ndarray(self.held.T))
    data = property(lambda self: SimpleNamespace(ptr=self.held.ctypes.data))

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **settings: Any) -> Any:
        function = getattr(THIS, ufunc.__name__)
        out = settings.pop("out", None)  # NumPy hands it over as a tuple, and leaves it out if there is none
        return getattr(function, method)(*inputs, **settings, **({"out": out[0]} if out else {}))

    def __array_function__(self, function: Any, types: Any, args: Any, settings: Any) -> Any:
        return getattr(THIS, function.__name__)(*args, **settings)

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        if out is not None and not blocking and fake_cuda.is_pinned(out):
            fake_cuda.refuse("a copy to the host")
            now = self.held.copy()
            (stream or fake_cuda.get_current_stream()).enqueue_copy(lambda: np.copyto(out, now))
            return out
        _round_trip("sync", ".get()")
        return self.held.copy()

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        if stream is None or not fake_cuda.is_pinned(arr):
            _round_trip("h2d", ".set()")
            self.held[...] = arr
            return
        fake_cuda.refuse("a copy from the host")
        if stream is not self.stream():  # what was launched there may still use what has been freed for this array
            raise RuntimeError("a stream writes into memory that was allocated on another, and has not waited for it")
        assert arr.dtype == self.dtype
        assert arr.shape == self.shape
        stream.enqueue_copy(lambda: np.copyto(self.held, arr), source=arr)

    def _number(self, kind: str) -> Any:
        _round_trip("sync", kind)
        return self.held.item()

    def item(self) -> Any:
        return self._number(".item()")

    def __float__(self) -> float:
        return float(self._number("float()"))

    def __int__(self) -> int:
        return int(self._number("int()"))

    def __index__(self) -> int:
        return operator.index(self._number("as an index"))

    def __bool__(self) -> bool:
        return bool(self._number("bool()"))

    def __len__(self) -> int:
        return len(self.held)

    def __iter__(self) -> Iterator["ndarray"]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        where = _index(index)
        return _to_device(self.held[where], [self.held], lambda: self.held[where])

    def __setitem__(self, index: Any, value: Any) -> None:
        where, host = _index(index), _to_host(value)
        fake_cuda.enqueue(lambda: self.held.__setitem__(where, host))

    def __getattr__(self, name: str) -> Any:
        """Every other method, if CuPy's array has it too."""
        if name.startswith("__") or not hasattr(real.ndarray, name):
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        method = getattr(self.held, name)
        return functools.partial(_call, f"ndarray.{name}", method, getattr(real.ndarray, name), inputs=[self.held])

    def __repr__(self) -> str:
        return f"device {self.held!r}"


class Function:
    """A function of NumPy under the rules of its namesake in CuPy; a ufunc also has .at and .reduce."""

    def __init__(self, name: str) -> None:
        self.name, self.numpy, self.cupy = name, getattr(np, name), getattr(real, name)

    def __call__(self, *args: Any, **settings: Any) -> Any:
        if self.name in WAITS or (self.name == "where" and len(args) == 1):
            _round_trip("sync", f"{self.name}: the size of the result depends on the numbers")
        return _call(self.name, self.numpy, self.cupy, *args, **settings)

    def __getattr__(self, method: str) -> Any:
        if not hasattr(self.cupy, method) or self.name not in UFUNC_METHODS.get(method, ()):
            raise AttributeError(f"cupy.{self.name} has no .{method}")
        return functools.partial(_call, f"{self.name}.{method}", getattr(self.numpy, method), None)


WAITS = {"argwhere", "bincount", "compress", "extract", "flatnonzero", "nonzero", "unique"}
UFUNC_METHODS = {  # the others exist too, but raise NotImplementedError when they are called
    "reduce": {"add", "multiply"},
    "accumulate": {"add", "multiply"},
    "reduceat": {"add"},
    "at": {"add", "subtract", "maximum", "minimum", "bitwise_and", "bitwise_or", "bitwise_xor"},
}
IN_PLACE = {"copyto", "put", "put_along_axis", *(f"{name}.at" for name in UFUNC_METHODS["at"])}
UFUNC_SETTINGS = {"out", "dtype", "casting", "where"}


def _call(name: str, function: Any, like: Any, *args: Any, inputs: Any = (), **settings: Any) -> Any:
    """Call NumPy's `function` with what the device arrays hold; `like` is CuPy's, whose signature is binding."""
    _check_signature(name, like, args, settings)
    host, out = _to_host(args), settings.get("out")
    there = {key: _to_host(value) for key, value in settings.items()}
    if out is not None or name in IN_PLACE:
        fake_cuda.enqueue(lambda: function(*host, **there))
        return out
    with np.errstate(all="ignore") if fake_cuda.capturing() else contextlib.nullcontext():
        result = function(*host, **there)
    filled = not name.startswith("empty")
    return _to_device(result, [*inputs, *_arrays(host)], lambda: function(*host, **there), filled=filled)


def _check_signature(name: str, like: Any, args: Any, settings: dict[str, Any]) -> None:
    if isinstance(like, real.ufunc):
        unknown = set(settings) - UFUNC_SETTINGS
    elif inspect.isfunction(like):
        inspect.signature(like).bind(*args, **settings)
        return
    else:  # a method written in Cython: its signature is the first line of its docstring
        line = (getattr(like, "__doc__", None) or "").partition("\n")[0]
        unknown = {key for key in settings if line and key not in line}
    if unknown:
        raise TypeError(f"cupy.{name} has no argument {', '.join(sorted(unknown))}")


def _to_host(x: Any) -> Any:
    if isinstance(x, ndarray):
        _check_device(x)
        return x.held
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return type(x)(map(_to_host, x)) if type(x) in (list, tuple) else x


def _check_device(x: ndarray) -> None:
    """Memory is taken, and kernels run, on the current device: another one's arrays are out of reach."""
    if x.device.id != _current[-1].id:
        raise ValueError(
            f"The device where the array resides ({x.device.id}) is different from the current device "
            f"({_current[-1].id}). Peer access is unavailable between these devices."
        )


def _to_device(result: Any, inputs: list[np.ndarray], again: Any, *, filled: bool = True) -> Any:
    """Wrap what NumPy returned. Where NumPy makes a scalar, CuPy has an array without dimensions.

    again   makes the result once more, for the replay of a captured graph
    filled  False: memory whose numbers nobody has written yet
    """
    if type(result) in (list, tuple):
        return type(result)(_to_device(part, inputs, lambda i=i: again()[i]) for i, part in enumerate(result))
    if not isinstance(result, np.ndarray | np.generic | bool):
        return result
    array = np.asarray(result)
    if not any(np.may_share_memory(array, x) for x in inputs):
        array = _as_allocated(array, filled=filled)
        fake_cuda.fresh(array, again, filled=filled)
    return ndarray(array)


def _as_allocated(array: np.ndarray, *, filled: bool = True) -> np.ndarray:
    """The same numbers (or none yet) in memory of the device."""
    there = fake_memory.allocate(array)
    if filled:
        there[...] = array
    return there


def _arrays(args: Any) -> list[np.ndarray]:
    flat = (y for x in args for y in (x if isinstance(x, list | tuple) else (x,)))
    return [x for x in flat if isinstance(x, np.ndarray)]


def _index(index: Any) -> Any:
    parts = index if isinstance(index, tuple) else (index,)
    for part in parts:
        if isinstance(part, np.ndarray | list):
            _round_trip("h2d", "an index from the host")
        elif isinstance(part, ndarray) and part.dtype == bool:
            _round_trip("sync", "a boolean index: the size of the result depends on the numbers")
    plain = tuple(part.held if isinstance(part, ndarray) else part for part in parts)
    return plain if isinstance(index, tuple) else plain[0]


def _round_trip(kind: str, what: str) -> None:
    fake_cuda.refuse(what)
    counts[kind] += 1
    round_trips.append(f"{kind}: {what}")


@contextlib.contextmanager
def captured() -> Iterator[None]:
    """What recording a CUDA graph would refuse: any round trip between host and device in this block."""
    before = len(round_trips)
    yield
    if round_trips[before:]:
        raise RuntimeError(f"host round trips: {round_trips[before:]}")


def asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: bool | None = None) -> ndarray:
    if isinstance(a, ndarray):
        return a if dtype in (None, a.dtype) and not copy else array(a, dtype, order=order or "K")
    _round_trip("h2d", f"asarray of a {type(a).__name__}")
    return ndarray(_as_allocated(np.array(a, dtype=dtype, order=order or "K")))


def array(obj: Any, dtype: Any = None, copy: bool = True, order: str = "K") -> ndarray:
    if not isinstance(obj, ndarray):
        return asarray(obj, dtype, order)
    copied = _as_allocated(np.array(obj.held, dtype=dtype, order=order))
    fake_cuda.fresh(copied, lambda: obj.held, filled=True)
    return ndarray(copied)


def launcher(run: Any) -> Any:
    """For nanograd.kernels.cuda.launch.register: counts kernels, and sees when one writes beside its arrays.

    run  runs one: the emulator
    """

    def launch(kernel: str, grid: Any, block: Any, arguments: Any, shared: int) -> None:
        def act() -> None:
            run(kernel, grid, block, arguments, shared)
            fake_memory.check_fences([x.held for x in arguments if isinstance(x, ndarray)])

        for x in arguments:
            if isinstance(x, ndarray):
                _check_device(x)
        counts[kernel] += 1
        fake_cuda.enqueue(act)

    return launch


def get_default_memory_pool() -> Any:
    return _pool


def asnumpy(a: Any) -> np.ndarray:
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def get_array_module(*args: Any) -> Any:
    return THIS if any(isinstance(x, ndarray) for x in args) else np


def __getattr__(name: str) -> Any:
    """Every other function, type and constant, if CuPy has it too."""
    if name.startswith("__") or not hasattr(real, name):
        raise AttributeError(f"module 'cupy' has no attribute {name!r}")
    thing = getattr(np, name)
    if isinstance(thing, type) and issubclass(thing, np.generic | np.dtype | np.finfo | np.iinfo):
        return thing
    if not callable(thing):
        return thing  # pi, inf, newaxis
    function = Function(name)
    setattr(THIS, name, function)
    return function


class _Device:
    """`with cupy.cuda.Device(0):`"""

    compute_capability = "90"

    def __init__(self, index: int) -> None:
        self.id = index

    def __enter__(self) -> "_Device":
        _current.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _current.pop()

    def use(self) -> None:
        _current[0] = self


_current = [_Device(0)]
_pool = fake_cuda.MemoryPool()
__version__ = real.__version__
cuda = SimpleNamespace(
    is_available=lambda: True,
    Device=_Device,
    runtime=SimpleNamespace(
        getDeviceCount=lambda: 2,
        getDevice=lambda: _current[-1].id,
        deviceSynchronize=lambda: _round_trip("sync", "deviceSynchronize()"),
        getDeviceProperties=lambda index: {
            "name": b"NVIDIA H200 (stand-in)",
            "major": 9,
            "minor": 0,
            "totalGlobalMem": 150 * 10**9,
            "multiProcessorCount": 132,
        },
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13000,
    ),
    get_elapsed_time=fake_cuda.get_elapsed_time,
    **{name: getattr(fake_cuda, name) for name in ("Event", "Stream", "MemoryPool", "using_allocator", "Graph")},
    get_current_stream=fake_cuda.get_current_stream,
)


def _erf(x: ndarray) -> ndarray:
    import scipy.special

    y = scipy.special.erf(x.held)
    fake_cuda.fresh(y, lambda: scipy.special.erf(x.held), filled=True)
    return ndarray(y)


def modules() -> dict[str, Any]:
    """What to put into sys.modules: this module as cupy, and the part of cupyx that formulas may use."""
    fake_cuda.forget()
    _current[:] = [_Device(0)]
    special = SimpleNamespace(erf=_erf)
    scipy = SimpleNamespace(special=special)
    return {
        "cupy": THIS,
        "cupyx": SimpleNamespace(scipy=scipy, empty_pinned=fake_cuda.empty_pinned),
        "cupyx.scipy": scipy,
        "cupyx.scipy.special": special,
    }
