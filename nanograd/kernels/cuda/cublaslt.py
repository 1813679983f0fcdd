"""Floor 3. Matrix products on a CUDA device: `gemm`, from arrays to cuBLASLt.

A product's plan (cublaslt_library.py) is made when a shape first comes, and kept. While a CUDA graph is recorded no
plan can be made, so a step that is to be recorded runs once before, or calls `warm` with what it will call `gemm` with.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, Literal, NamedTuple, get_args

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cuda.cublaslt_abi import Compute, load_library
from nanograd.kernels.cuda.cublaslt_library import WORKSPACE, CublasLt, CublasLtError, Plan, Pointers
from nanograd.kernels.cuda.gemm_problem import Batch, EpilogueName, Operands, alignment, problem

MatmulPrecision = Literal["float32", "tf32", "bf16"]
FIRST_WITH_TF32 = 80  # compute capability 8.0; and with bfloat16

_COMPUTE = {
    "float32": Compute.COMPUTE_32F,
    "tf32": Compute.COMPUTE_32F_FAST_TF32,
    "bf16": Compute.COMPUTE_32F_FAST_16BF,
}
_precision: MatmulPrecision = "float32"


def matmul_precision() -> MatmulPrecision:
    """What products of float32 matrices compute in on a CUDA device."""
    return _precision


def set_matmul_precision(name: MatmulPrecision) -> None:
    """From now on float32 factors are rounded: by bf16 to 8 bits, by tf32 to 11; sums are float32 in any case.

    Products of bfloat16 or float16 matrices are not affected: their factors are as short already.
    """
    global _precision
    check_precision(name, FIRST_WITH_TF32)
    _precision = name


@contextlib.contextmanager
def precision_of(name: MatmulPrecision) -> Iterator[None]:
    """Choose inside a block."""
    before = _precision
    set_matmul_precision(name)
    try:
        yield
    finally:
        set_matmul_precision(before)


def check_precision(name: str, compute_capability: int) -> None:
    """Raise ValueError, in one line that says what to do, unless such a GPU multiplies in this precision."""
    if name not in get_args(MatmulPrecision):
        raise ValueError(f"matmul precision {name!r} is unknown; use one of {', '.join(get_args(MatmulPrecision))}")
    if name != "float32" and compute_capability < FIRST_WITH_TF32:
        raise ValueError(
            f"matmul precision {name} needs a GPU of compute capability 8.0 (A100) or later, and this one has "
            f"{compute_capability / 10}: use float32"
        )


class _Known(NamedTuple):
    """A product that came before: its plan, and the calls that it takes."""

    plan: Plan
    batch: Batch


class _Device:
    """A library on one device, what it has planned there, and the memory that its products use on the way."""

    def __init__(self, library: CublasLt) -> None:
        self.library = library
        self.known: dict[Any, _Known | None] = {}
        self.workspaces: MutableMapping[Any, Array] = weakref.WeakKeyDictionary()

    def workspace(self, xp: ArrayModule, stream: Any) -> tuple[int, int]:
        """Address and size; each stream has its own as long as it lives, for its products may run beside another's."""
        if stream not in self.workspaces:
            self.workspaces[stream] = xp.empty(WORKSPACE, "uint8")
        return self.workspaces[stream].data.ptr, WORKSPACE


_libraries: dict[ArrayModule, Callable[[], Any]] = {}
_devices: dict[tuple[ArrayModule, int], _Device] = {}


def check_installed(xp: ArrayModule) -> None:
    """Raise DeviceError, which says what to install, unless arrays of `xp` can be multiplied."""
    _libraries.get(xp, load_library)()


def register(xp: ArrayModule, library: Callable[[], Any]) -> None:
    """Have arrays of module `xp` multiplied by what `library()` returns, in place of the shared library."""
    _libraries[xp] = library
    for key in [key for key in _devices if key[0] is xp]:
        del _devices[key]


def gemm(
    xp: ArrayModule,
    a: Array,
    b: Array,
    out: Array,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    alpha: float = 1.0,
    beta: float = 0.0,
    addend: Array | None = None,
    epilogue: EpilogueName | None = None,
    bias: Array | None = None,
    aux: Array | None = None,
) -> Array:
    """out = f(alpha a b + beta addend), added up in float32.   a (…, M, K), b (…, K, N) → out (…, M, N), returned

    Leading axes broadcast. a and b may be views of any kind in which one of the last two axes is dense: none is copied.
    a, b     of one type, float32, float16 or bfloat16; out is of that type too, or float32
    addend   another array like out; None: out itself
    bias     of out's type, (N,) but where the table says (M,)
    aux      like out, contiguous, with N a multiple of 8

        epilogue       f(z), where gelu is its tanh formula
        None           z
        bias           z + bias
        gelu_aux       gelu(z); z goes into aux
        gelu_aux_bias  gelu(z + bias); z + bias goes into aux
        dgelu          z ⊙ gelu′(aux)
        dgelu_bgrad    the same; its sum over rows goes into bias
        bgrad_a        z; the sum of a over K goes into bias (M,)
        bgrad_b        z; the sum of b over K goes into bias (N,)

    Raises ValueError for operands that cuBLASLt can't take or has no kernel for, and CublasLtError if it failed, or if
    the product is new while a CUDA graph is recorded.
    """
    a, b = a.swapaxes(-1, -2) if transpose_a else a, b.swapaxes(-1, -2) if transpose_b else b
    operands = Operands(a, b, out if addend is None else addend, out, epilogue, bias, aux)
    if not _run(xp, operands, alpha, beta):
        raise ValueError(f"gemm: cuBLASLt has no kernel for {operands}")
    return out


def attempt(
    xp: ArrayModule,
    a: Array,
    b: Array,
    out: Array,
    *,
    beta: float = 0.0,
    addend: Array | None = None,
    epilogue: EpilogueName | None = None,
    bias: Array | None = None,
    aux: Array | None = None,
) -> bool:
    """`gemm` if cuBLASLt has a kernel for it, or False: then nothing has happened, and another way is to be found."""
    operands = Operands(a, b, out if addend is None else addend, out, epilogue, bias, aux)
    try:
        return _run(xp, operands, 1.0, beta)
    except ValueError:
        return False


def offers(
    xp: ArrayModule,
    a: Array,
    b: Array,
    out: Array,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    addend: Array | None = None,
    epilogue: EpilogueName | None = None,
    bias: Array | None = None,
    aux: Array | None = None,
) -> bool:
    """Would `gemm` take these arguments? If so their plan is made. Nothing is computed."""
    a, b = a.swapaxes(-1, -2) if transpose_a else a, b.swapaxes(-1, -2) if transpose_b else b
    operands = Operands(a, b, out if addend is None else addend, out, epilogue, bias, aux)
    try:
        return _known(_device(xp, out), operands, xp.cuda.get_current_stream()) is not None
    except ValueError:
        return False


def warm(xp: ArrayModule, a: Array, b: Array, out: Array, **settings: Any) -> None:
    """Have the plan for such a call of `gemm`, and this stream's memory, before a CUDA graph is recorded."""
    offers(xp, a, b, out, **settings)
    _device(xp, out).workspace(xp, xp.cuda.get_current_stream())


def _run(xp: ArrayModule, operands: Operands, alpha: float, beta: float) -> bool:
    """False if cuBLASLt has no kernel for these operands"""
    device, stream = _device(xp, operands.out), xp.cuda.get_current_stream()
    known = _known(device, operands, stream)
    if known is None:
        return False
    workspace = device.workspace(xp, stream)
    addresses = [x.data.ptr for x in operands.matrices]
    extra = [0 if x is None else x.data.ptr for x in (operands.bias, operands.aux)]
    for offsets in known.batch.offsets():
        pointers = Pointers(*map(sum, zip(addresses, offsets, strict=True)), *extra)
        device.library.multiply(known.plan, pointers, alpha, beta, workspace, stream.ptr)
    return True


def _device(xp: ArrayModule, x: Array) -> _Device:
    key = xp, x.device.id
    if key not in _devices:
        with xp.cuda.Device(x.device.id):
            _devices[key] = _Device(CublasLt(_libraries.get(xp, load_library)()))
    return _devices[key]


def _known(device: _Device, operands: Operands, stream: Any) -> _Known | None:
    """The plan for these operands, made when they first come; None if cuBLASLt has no kernel for them."""
    arrays = [x for x in operands if hasattr(x, "strides")]
    key = (operands.epilogue, len(arrays), _precision, *[_looks(x) for x in arrays])
    if key not in device.known:
        asked, batch = problem(operands, _COMPUTE[_precision])
        if stream.is_capturing():
            raise CublasLtError(
                f"gemm: a CUDA graph is recorded, so no plan can be made for {operands}: run the step once before"
            )
        plan = device.library.plan(asked)
        device.known[key] = None if plan is None else _Known(plan, batch)
    return device.known[key]


def _looks(x: Array) -> Any:
    return x.shape, x.strides, x.dtype, alignment(x.data.ptr)
