"""Floor 3. From arrays to the problem that cuBLASLt is asked to plan, and what it could not even be asked.

Our matrices lie row by row, cuBLASLt's column by column. The same memory read the other way is the transpose, so

    out = a b   (M, K) (K, N)     is computed as     outᵀ = bᵀ aᵀ   (N, K) (K, M)

and nothing is moved: cuBLASLt's first operand is our b, its second our a. An operand that lies column by column already
(`weight.T`, say) is handed over as it is, to be transposed.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from nanograd.backend import Array, describe
from nanograd.kernels.cuda.cublaslt_abi import Compute, DataType, Epilogue
from nanograd.kernels.cuda.cublaslt_library import Layout, Problem

EpilogueName = Literal["bias", "gelu_aux", "gelu_aux_bias", "dgelu", "dgelu_bgrad", "bgrad_a", "bgrad_b"]
Steps = tuple[int, ...]  # bytes, as in `array.strides`

TYPES = {"float32": DataType.R_32F, "float16": DataType.R_16F, "bfloat16": DataType.R_16BF}
EPILOGUES: Mapping[EpilogueName | None, Epilogue] = {  # our a is cuBLASLt's B, and the other way round
    None: Epilogue.DEFAULT,
    "bias": Epilogue.BIAS,
    "gelu_aux": Epilogue.GELU_AUX,
    "gelu_aux_bias": Epilogue.GELU_AUX_BIAS,
    "dgelu": Epilogue.DGELU,
    "dgelu_bgrad": Epilogue.DGELU_BGRAD,
    "bgrad_a": Epilogue.BGRADB,
    "bgrad_b": Epilogue.BGRADA,
}
_WITH_BIAS = ("bias", "gelu_aux_bias", "dgelu_bgrad", "bgrad_a", "bgrad_b")
_WITH_AUX = ("gelu_aux", "gelu_aux_bias", "dgelu", "dgelu_bgrad")
_ALIGNED = 16  # bytes: what epilogues want of the arrays that they read and write


class Operands(NamedTuple):
    """The arrays of one product, as they are to be multiplied."""

    a: Array  # (…, M, K)
    b: Array  # (…, K, N)
    addend: Array  # (…, M, N), as out
    out: Array
    epilogue: EpilogueName | None
    bias: Array | None
    aux: Array | None

    @property
    def matrices(self) -> tuple[Array, Array, Array, Array]:
        """In cuBLASLt's order: its A, B, C, D."""
        return self.b, self.a, self.addend, self.out

    def __str__(self) -> str:
        with_epilogue = f" with epilogue {self.epilogue}" if self.epilogue else ""
        return f"{describe(self.a)} times {describe(self.b)} into {describe(self.out)}{with_epilogue}"


class Batch(NamedTuple):
    """The axes before the last two, in which all operands take part; an operand that repeats has step 0."""

    at_once: int  # matrices in one call, each operand's at equal distances
    steps: Steps  # these distances
    outer: tuple[int, ...]  # what remains: the axes along which there is a call for each index
    outer_steps: tuple[Steps, ...]  # each operand's step along each of them

    def offsets(self) -> Iterator[Steps]:
        """Where each operand begins, one call after the other."""
        for index in itertools.product(*map(range, self.outer)):
            yield tuple(sum(i * step for i, step in zip(index, steps, strict=True)) for steps in self.outer_steps)


def problem(operands: Operands, float32_compute: Compute) -> tuple[Problem, Batch]:
    """What cuBLASLt is asked for.   float32_compute: what factors in float32 may be rounded to

    Raises ValueError for types, shapes or strides that it does not know.
    """
    _check_shapes(operands)
    _check_epilogue(operands)
    matrices, compute = operands.matrices, Compute.COMPUTE_32F
    if operands.a.dtype == "float32":
        compute = float32_compute
    batch = batch_of(matrices[3].shape[:-2], [x.strides for x in matrices], [x.shape for x in matrices])
    if operands.epilogue is not None and operands.out.ndim > 2:
        raise ValueError(f"gemm: epilogue {operands.epilogue} is for single matrices, not for {operands}")
    layouts, transposed, alignments = [], [], []
    for x, step, steps in zip(matrices, batch.steps, batch.outer_steps, strict=True):
        layout, turned = layout_of(x.shape, x.strides, x.dtype.name, x.itemsize)
        layouts.append(layout._replace(stride=step // x.itemsize))
        transposed.append(turned)
        alignments.append(alignment(x.data.ptr, *steps))
    if transposed[2] or transposed[3]:
        raise ValueError("gemm: the result, and what is added to it, must lie row by row")
    b, a, c, d = layouts
    aux = 0 if operands.aux is None else operands.aux.shape[1]
    epilogue = EPILOGUES[operands.epilogue]
    aligned = alignments[0], alignments[1], alignments[2], alignments[3]
    return Problem(b, a, c, d, transposed[0], transposed[1], batch.at_once, compute, epilogue, aux, aligned), batch


def _check_shapes(operands: Operands) -> None:
    a, b, addend, out = operands[:4]
    fits = a.ndim > 1 and b.ndim > 1 and out.ndim > 1 and a.shape[-1] == b.shape[-2]
    if not fits or out.shape[-2:] != (a.shape[-2], b.shape[-1]) or addend.shape != out.shape:
        raise ValueError(f"gemm: (…, M, K) times (…, K, N) gives (…, M, N), not {operands}")
    if not a.size or not b.size:
        raise ValueError(f"gemm: nothing to multiply in {operands}")
    if a.dtype.name not in TYPES or b.dtype != a.dtype or addend.dtype != out.dtype:
        raise ValueError(f"gemm: two operands of one type, float32, float16 or bfloat16, wanted, not {operands}")
    if out.dtype not in (a.dtype, "float32"):
        raise ValueError(f"gemm: the result is of the operands' type or float32, not {operands}")


def _check_epilogue(operands: Operands) -> None:
    name, bias, aux, out = operands.epilogue, operands.bias, operands.aux, operands.out
    if name not in EPILOGUES or (bias is None) == (name in _WITH_BIAS) or (aux is None) == (name in _WITH_AUX):
        raise ValueError(f"gemm: epilogue {name} with bias {bias is not None} and aux {aux is not None}")
    if bias is not None:
        n = out.shape[-2] if name == "bgrad_a" else out.shape[-1]
        if bias.shape != (n,) or bias.dtype != out.dtype or not _dense(bias):
            raise ValueError(f"gemm: epilogue {name} wants a dense, aligned bias ({n},) like {describe(out)}")
    if aux is not None and (aux.shape != out.shape or aux.dtype != out.dtype or not _dense(aux) or aux.shape[1] % 8):
        raise ValueError(f"gemm: epilogue {name} wants a dense, aligned aux of 8n columns like {describe(out)}")


def _dense(x: Array) -> bool:
    return bool(x.flags.c_contiguous) and alignment(x.data.ptr) >= _ALIGNED


def layout_of(shape: Sequence[int], strides: Steps, dtype: str, itemsize: int) -> tuple[Layout, bool]:
    """The last two axes as cuBLASLt's matrix, and whether it has to transpose that. ValueError if neither is dense."""
    (rows, columns), (down, along) = shape[-2:], strides[-2:]
    if (along == itemsize or columns == 1) and (rows == 1 or _apart(down, columns, itemsize)):
        return Layout(TYPES[dtype], columns, rows, columns if rows == 1 else down // itemsize), False
    if (down == itemsize or rows == 1) and (columns == 1 or _apart(along, rows, itemsize)):
        return Layout(TYPES[dtype], rows, columns, rows if columns == 1 else along // itemsize), True
    raise ValueError(f"gemm: a {dtype} matrix {tuple(shape[-2:])} with strides {tuple(strides[-2:])} is not dense")


def is_dense(x: Array) -> bool:
    """Can its last two axes be handed to cuBLASLt as they lie?"""
    try:
        layout_of(x.shape, x.strides, x.dtype.name, x.itemsize)
    except ValueError:
        return False
    return True


def _apart(step: int, n: int, itemsize: int) -> bool:
    """Do lines of n numbers, `step` bytes apart, not overlap?"""
    return step >= n * itemsize and step % itemsize == 0


def batch_of(shape: tuple[int, ...], strides: Sequence[Steps], shapes: Sequence[tuple[int, ...]]) -> Batch:
    """How to walk through the leading axes `shape` of a result, given each operand's strides and shape.

    Axes that all operands could walk through as one are one. Raises ValueError for an operand that does not broadcast.
    """
    walks = [_walk(shape, own_strides[:-2], own[:-2]) for own_strides, own in zip(strides, shapes, strict=True)]
    merged: list[tuple[int, Steps]] = [(1, (0,) * len(walks))]
    for n, *steps in zip(shape, *walks, strict=True):
        before, outer = merged[-1]
        if n == 1:
            continue
        if before == 1 or all(far == n * step for far, step in zip(outer, steps, strict=True)):
            merged[-1] = before * n, tuple(steps)
        else:
            merged.append((n, tuple(steps)))
    *outer_axes, (at_once, inner) = merged
    outer_steps = tuple(tuple(steps[i] for _, steps in outer_axes) for i in range(len(walks)))
    return Batch(at_once, inner, tuple(n for n, _ in outer_axes), outer_steps)


def _walk(shape: tuple[int, ...], strides: Steps, own: tuple[int, ...]) -> Steps:
    """An operand's step along each axis of `shape`, 0 where it is the same for all."""
    missing = len(shape) - len(own)
    if missing < 0 or any(n not in (1, m) for n, m in zip(own, shape[missing:], strict=True)):
        raise ValueError(f"gemm: leading axes {own} don't broadcast to {shape}")
    return (0,) * missing + tuple(0 if n == 1 else step for n, step in zip(own, strides, strict=True))


def alignment(*addresses: int) -> int:
    """The largest power of two that divides all of these, 256 at most: what cuBLASLt may rely on."""
    together = 256
    for address in addresses:
        together |= address
    return together & -together
