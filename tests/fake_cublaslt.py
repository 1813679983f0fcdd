"""A stand-in for the cuBLASLt library: the same functions, and NumPy does the sums.

It sees what the real library sees, which is descriptors, attributes and addresses, and reads the memory there column by
column: whoever confuses rows with columns, or one pointer with another, gets wrong numbers here too. It refuses what
the real one refuses: attributes that are unknown or of the wrong size; types that don't go together; a leading
dimension that is too short; addresses less aligned than the plan was told; plans of other layouts; planning in a
capture.

    cublaslt.register(fake_cupy, FakeCublasLt)
"""

import ctypes
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

from nanograd.kernels.cuda.cublaslt_abi import (
    ATTRIBUTE_TYPES,
    Compute,
    DataType,
    DescAttribute,
    Epilogue,
    LayoutAttribute,
    Operation,
    PreferenceAttribute,
    Status,
)
from tests import fake_cuda

TYPES = {DataType.R_32F: np.dtype(np.float32), DataType.R_16F: np.dtype(np.float16)}
TYPES[DataType.R_16BF] = np.dtype(ml_dtypes.bfloat16)
ALIGNED = 16  # bytes; the epilogues read and write their vectors and matrices in pieces of that size


class FakeCublasLt:
    """What `ctypes.CDLL` would return. `without`: epilogues that it has no kernels for."""

    def __init__(self, *, without: frozenset[Epilogue] = frozenset()) -> None:
        self.without = without
        self.things: list[SimpleNamespace] = [SimpleNamespace()]  # a handle is a place in this list
        self.products: list[SimpleNamespace] = []  # the descriptors of all products so far

    def cublasLtCreate(self, handle: Any) -> int:  # noqa: N802
        return self._new(handle, kind="handle")

    def cublasLtMatmulDescCreate(self, handle: Any, compute: int, scale: int) -> int:  # noqa: N802
        if scale != DataType.R_32F:
            return Status.NOT_SUPPORTED
        return self._new(
            handle,
            kind="product",
            compute=Compute(compute),
            **{attribute.name: 0 for attribute in DescAttribute},
        )

    def cublasLtMatrixLayoutCreate(self, handle: Any, dtype: int, rows: int, columns: int, leading: int) -> int:  # noqa: N802
        matrix = {"dtype": TYPES[DataType(dtype)], "rows": rows, "columns": columns, "leading": leading}
        return self._new(handle, kind="layout", BATCH_COUNT=1, STRIDED_BATCH_OFFSET=0, **matrix)

    def cublasLtMatmulPreferenceCreate(self, handle: Any) -> int:  # noqa: N802
        return self._new(handle, kind="preference", **{attribute.name: 256 for attribute in PreferenceAttribute})

    def cublasLtMatmulPreferenceDestroy(self, handle: Any) -> int:  # noqa: N802
        self.things[handle.value].kind = "destroyed"
        return Status.SUCCESS

    def cublasLtMatmulDescSetAttribute(self, handle: Any, attribute: int, value: Any, size: int) -> int:  # noqa: N802
        return self._set(handle, "product", DescAttribute(attribute), value, size)

    def cublasLtMatrixLayoutSetAttribute(self, handle: Any, attribute: int, value: Any, size: int) -> int:  # noqa: N802
        return self._set(handle, "layout", LayoutAttribute(attribute), value, size)

    def cublasLtMatmulPreferenceSetAttribute(self, handle: Any, attribute: int, value: Any, size: int) -> int:  # noqa: N802
        return self._set(handle, "preference", PreferenceAttribute(attribute), value, size)

    def cublasLtMatmulAlgoGetHeuristic(  # noqa: N802
        self, handle: Any, product: Any, a: Any, b: Any, c: Any, d: Any, preference: Any, n: int, found: Any, count: Any
    ) -> int:
        if fake_cuda.capturing():
            return Status.INTERNAL_ERROR
        description, wishes = self.things[product.value], self.things[preference.value]
        layouts = [self.things[x.value] for x in (a, b, c, d)]
        status = _fit(description, *layouts)
        if status == Status.SUCCESS and description.EPILOGUE in self.without:
            status = Status.NOT_SUPPORTED
        result = found._obj
        result.state, result.workspace_size = status, wishes.MAX_WORKSPACE_BYTES
        self.things.append(SimpleNamespace(kind="plan", layouts=layouts, wishes=wishes, product=description))
        result.algorithm.data[0] = len(self.things) - 1
        count._obj.value = int(status == Status.SUCCESS)
        return status

    def cublasLtMatmul(  # noqa: N802
        self, handle: Any, product: Any, alpha: Any, a: int, A: Any, b: int, B: Any, beta: Any, c: int, C: Any, d: int,
        D: Any, algorithm: Any, workspace: int, workspace_size: int, stream: int,
    ) -> int:  # fmt: skip
        description, plan = self.things[product.value], self.things[algorithm._obj.data[0]]
        layouts = [self.things[x.value] for x in (A, B, C, D)]
        wishes = plan.wishes
        wanted = [getattr(wishes, f"MIN_ALIGNMENT_{name}_BYTES") for name in "ABCD"]
        misaligned = any(address % n for address, n in zip((a, b, c, d), wanted, strict=True))
        if misaligned or plan.layouts != layouts or plan.product is not description:
            return Status.INVALID_VALUE
        if not workspace or workspace % 16 or workspace_size < wishes.MAX_WORKSPACE_BYTES:
            return Status.INVALID_VALUE
        if _pointers_missing(description):
            return Status.INVALID_VALUE
        self.products.append(SimpleNamespace(**vars(description)))
        views = [_view(address, layout) for address, layout in zip((a, b, c, d), layouts, strict=True)]
        now, scales = SimpleNamespace(**vars(description)), (alpha._obj.value, beta._obj.value)
        fake_cuda.enqueue(lambda: _multiply(now, *scales, *views))
        return Status.SUCCESS

    def cublasLtGetStatusName(self, status: int) -> bytes:  # noqa: N802
        return f"CUBLAS_STATUS_{Status(status).name}".encode()

    def cublasLtGetVersion(self) -> int:  # noqa: N802
        return 130000

    def _new(self, handle: Any, **what: Any) -> int:
        self.things.append(SimpleNamespace(**what))
        handle._obj.value = len(self.things) - 1
        return Status.SUCCESS

    def _set(self, handle: Any, kind: str, attribute: Any, value: Any, size: int) -> int:
        thing, ctype = self.things[handle.value], ATTRIBUTE_TYPES[type(attribute)][attribute]
        if thing.kind != kind or size != ctypes.sizeof(ctype):
            return Status.INVALID_VALUE
        setattr(thing, attribute.name, ctype.from_buffer_copy(bytes(value._obj)).value or 0)
        return Status.SUCCESS


def _fit(product: Any, a: Any, b: Any, c: Any, d: Any) -> Status:
    """Do the matrices fit together? Types as in cuBLAS's documentation, table "cublasLtMatmul() supported types"."""
    for matrix in (a, b, c, d):
        if min(matrix.rows, matrix.columns) < 1 or matrix.leading < matrix.rows or matrix.BATCH_COUNT != d.BATCH_COUNT:
            return Status.INVALID_VALUE
    m, k = _turned(a, product.TRANSA)
    k2, n = _turned(b, product.TRANSB)
    if (m, n, k) != (d.rows, d.columns, k2) or (c.rows, c.columns) != (d.rows, d.columns):
        return Status.INVALID_VALUE
    if a.dtype != b.dtype or c.dtype != d.dtype or d.dtype not in (a.dtype, TYPES[DataType.R_32F]):
        return Status.NOT_SUPPORTED
    if product.compute != Compute.COMPUTE_32F and a.dtype != np.float32:
        return Status.NOT_SUPPORTED
    if product.EPILOGUE & 128 and (product.EPILOGUE_AUX_LD % 8 or d.rows > product.EPILOGUE_AUX_LD):
        return Status.INVALID_VALUE
    return Status.SUCCESS


def _turned(matrix: Any, operation: int) -> tuple[int, int]:
    return (matrix.columns, matrix.rows) if operation == Operation.T else (matrix.rows, matrix.columns)


def _pointers_missing(product: Any) -> bool:
    wanted = {"EPILOGUE_AUX_POINTER": 128, "BIAS_POINTER": 4 | 16 | 256 | 512}
    addresses = [getattr(product, name) for name, bits in wanted.items() if product.EPILOGUE & bits]
    return any(address == 0 or address % ALIGNED for address in addresses)


def _view(address: int, layout: Any) -> np.ndarray:
    """The memory at this address as (batch, rows, columns)."""
    step = layout.dtype.itemsize
    strides = (layout.STRIDED_BATCH_OFFSET * step, step, layout.leading * step)
    shape = (layout.BATCH_COUNT, layout.rows, layout.columns)
    length = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) // step
    flat = _memory(address, length, layout.dtype)
    return np.lib.stride_tricks.as_strided(flat, shape, strides)


def _memory(address: int, length: int, dtype: np.dtype) -> np.ndarray:
    held = (ctypes.c_char * (length * dtype.itemsize)).from_address(address)
    return np.frombuffer(held, dtype)


def _multiply(product: Any, alpha: float, beta: float, a: Any, b: Any, c: Any, d: Any) -> None:
    """D = epilogue(α op(A) op(B) + β C), in float64, of factors as they are rounded"""
    factors = [_rounded(x, product.compute).astype(np.float64) for x in (a, b)]
    turned = [product.TRANSA, product.TRANSB]
    left, right = (x.swapaxes(1, 2) if t == Operation.T else x for x, t in zip(factors, turned, strict=True))
    z = alpha * (left @ right)
    if beta:
        z += beta * c.astype(np.float64)
    bias = _memory(product.BIAS_POINTER, _bias_length(product, d), d.dtype) if product.BIAS_POINTER else None
    aux = None
    if product.EPILOGUE & 128:
        leading = product.EPILOGUE_AUX_LD
        aux = _memory(product.EPILOGUE_AUX_POINTER, leading * d.shape[2], d.dtype).reshape(-1, leading).T[: d.shape[1]]
    d[...] = _epilogue(Epilogue(product.EPILOGUE), z, left, right, bias, aux).astype(d.dtype)


def _bias_length(product: Any, d: Any) -> int:
    return d.shape[2] if product.EPILOGUE == Epilogue.BGRADB else d.shape[1]


def _rounded(x: np.ndarray, compute: Compute) -> np.ndarray:
    if compute == Compute.COMPUTE_32F_FAST_16BF:
        return x.astype(ml_dtypes.bfloat16)
    if compute == Compute.COMPUTE_32F_FAST_TF32:  # to nearest, ties away from zero: cvt.rna.tf32.f32
        return ((x.view(np.uint32) + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)
    return x


def _epilogue(kind: Epilogue, z: Any, left: Any, right: Any, bias: Any, aux: Any) -> Any:
    """Rows and columns are cuBLASLt's: a bias has a number for each row."""
    if kind in (Epilogue.BIAS, Epilogue.GELU_AUX_BIAS):
        z = z + bias.astype(np.float64)[:, None]
    if kind in (Epilogue.GELU_AUX, Epilogue.GELU_AUX_BIAS):
        aux[...] = z[0].astype(aux.dtype)
        z = _gelu(z)[0]
    if kind in (Epilogue.DGELU, Epilogue.DGELU_BGRAD):
        z = z * _gelu(aux.astype(np.float64))[1]
    if kind == Epilogue.DGELU_BGRAD:
        bias[...] = z[0].sum(axis=1).astype(bias.dtype)
    if kind == Epilogue.BGRADA:
        bias[...] = left[0].sum(axis=1).astype(bias.dtype)
    if kind == Epilogue.BGRADB:
        bias[...] = right[0].sum(axis=0).astype(bias.dtype)
    return z


def _gelu(x: Any) -> tuple[Any, Any]:
    """½ x (1 + tanh u),  u = √(2/π) (x + 0.044715 x³), and its slope"""
    root = np.sqrt(2 / np.pi)
    t = np.tanh(root * (x + 0.044715 * x**3))
    slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * root * (1 + 3 * 0.044715 * x * x)
    return 0.5 * x * (1 + t), slope
