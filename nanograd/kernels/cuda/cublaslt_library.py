"""Floor 3. Products by cuBLASLt: what is asked for (Problem), how the library will do it (Plan), and the call itself.

Here matrices are cuBLASLt's, which lie column by column: cublaslt.py turns our rows into its columns.
"""

import ctypes
import threading
from ctypes import byref, c_int, c_void_p
from typing import Any, NamedTuple

from nanograd.kernels.cuda.cublaslt_abi import (
    ATTRIBUTE_TYPES,
    Compute,
    DataType,
    DescAttribute,
    Epilogue,
    HeuristicResult,
    LayoutAttribute,
    Operation,
    PreferenceAttribute,
    Reduction,
    Status,
)

WORKSPACE = 32 << 20  # bytes: what cuBLAS's documentation recommends for Hopper; smaller chips want less


class CublasLtError(RuntimeError):
    """A call that cuBLASLt refused, with the name of its status."""


class Layout(NamedTuple):
    """A matrix as it lies in memory, column by column; with several of them in a batch, one every `stride` numbers."""

    dtype: DataType
    rows: int
    columns: int
    leading: int  # numbers from one column to the next
    stride: int = 0


class Problem(NamedTuple):
    """D = f(α op(A) op(B) + β C): all that decides which algorithm is the best one. C is stored as D is."""

    a: Layout
    b: Layout
    c: Layout
    d: Layout
    transpose_a: bool
    transpose_b: bool
    batch: int
    compute: Compute
    epilogue: Epilogue
    aux_leading: int  # of the matrix that the epilogue reads or writes beside D; 0: there is none
    alignments: tuple[int, int, int, int]  # bytes, of the pointers to A, B, C, D


class Plan(NamedTuple):
    """A problem in the library's own objects, and the algorithm that its heuristics chose. Kept for good."""

    description: c_void_p
    layouts: tuple[c_void_p, ...]  # of A, B, C, D
    algorithm: Any


class Pointers(NamedTuple):
    """Where things lie on the device; bias and aux are 0 if the epilogue has no use for them."""

    a: int
    b: int
    c: int
    d: int
    bias: int = 0
    aux: int = 0


class CublasLt:
    """A handle to cuBLASLt on the current device.

    library  what cublaslt_abi.load_library() returned
    Raises CublasLtError if there is no device.
    """

    def __init__(self, library: Any) -> None:
        self.library = library
        self.handle = self._new("cublasLtCreate")
        self._one_at_a_time = threading.Lock()  # a plan's pointers are set, then read by the call that follows

    def plan(self, problem: Problem) -> Plan | None:
        """The algorithm that the heuristics put first, or None if cuBLASLt has none for this problem.

        It asks the driver, which is refused while a CUDA graph is recorded: ask before.
        """
        description = self._description(problem)
        layouts = tuple([self._layout(x, problem.batch) for x in problem[:4]])
        preference = self._preference(problem)
        found, count = HeuristicResult(), c_int(0)
        try:
            status = self.library.cublasLtMatmulAlgoGetHeuristic(
                self.handle, description, *layouts, preference, 1, byref(found), byref(count)
            )
        finally:
            self._call("cublasLtMatmulPreferenceDestroy", preference)
        if status == Status.SUCCESS and count.value:
            status = found.state  # the answer has a status of its own
        elif status == Status.SUCCESS:
            status = Status.NOT_SUPPORTED
        if status in (Status.NOT_SUPPORTED, Status.INVALID_VALUE):
            return None  # there is no kernel for this shape, or none with this epilogue
        self._check("cublasLtMatmulAlgoGetHeuristic", status)
        return Plan(description, layouts, found.algorithm)

    def multiply(
        self, plan: Plan, pointers: Pointers, alpha: float, beta: float, workspace: tuple[int, int], stream: int
    ) -> None:
        """Queue the product in `stream`. workspace: address and bytes of memory that no other stream uses."""
        a, b, c, d, bias, aux = pointers
        A, B, C, D = plan.layouts
        scale, keep = byref(ctypes.c_float(alpha)), byref(ctypes.c_float(beta))
        with self._one_at_a_time:
            if bias:
                self._set(plan.description, DescAttribute.BIAS_POINTER, bias)
            if aux:
                self._set(plan.description, DescAttribute.EPILOGUE_AUX_POINTER, aux)
            status = self.library.cublasLtMatmul(
                *(self.handle, plan.description, scale, a, A, b, B, keep, c, C, d, D),
                *(byref(plan.algorithm), *workspace, stream),
            )
        self._check("cublasLtMatmul", status)

    def _description(self, problem: Problem) -> c_void_p:
        description = self._new("cublasLtMatmulDescCreate", problem.compute, DataType.R_32F)  # α and β are float32
        for attribute, transposed in (
            (DescAttribute.TRANSA, problem.transpose_a),
            (DescAttribute.TRANSB, problem.transpose_b),
        ):
            self._set(description, attribute, Operation.T if transposed else Operation.N)
        self._set(description, DescAttribute.EPILOGUE, problem.epilogue)
        if problem.aux_leading:
            self._set(description, DescAttribute.EPILOGUE_AUX_LD, problem.aux_leading)
        return description

    def _layout(self, matrix: Layout, batch: int) -> c_void_p:
        layout = self._new("cublasLtMatrixLayoutCreate", *matrix[:4])
        if batch > 1:
            self._set(layout, LayoutAttribute.BATCH_COUNT, batch)
            self._set(layout, LayoutAttribute.STRIDED_BATCH_OFFSET, matrix.stride)
        return layout

    def _preference(self, problem: Problem) -> c_void_p:
        preference = self._new("cublasLtMatmulPreferenceCreate")
        self._set(preference, PreferenceAttribute.MAX_WORKSPACE_BYTES, WORKSPACE)
        self._set(preference, PreferenceAttribute.REDUCTION_SCHEME_MASK, Reduction.COMPUTE_TYPE)
        first = PreferenceAttribute.MIN_ALIGNMENT_A_BYTES
        for i, alignment in enumerate(problem.alignments):
            self._set(preference, PreferenceAttribute(first + i), alignment)
        return preference

    def _set(self, thing: c_void_p, attribute: Any, value: int) -> None:
        number = ATTRIBUTE_TYPES[type(attribute)][attribute](value)
        self._call(_SETTERS[type(attribute)], thing, attribute, byref(number), ctypes.sizeof(number))

    def _new(self, function: str, *arguments: Any) -> c_void_p:
        thing = c_void_p()
        self._call(function, byref(thing), *arguments)
        return thing

    def _call(self, function: str, *arguments: Any) -> None:
        self._check(function, getattr(self.library, function)(*arguments))

    def _check(self, function: str, status: int) -> None:
        if status != Status.SUCCESS:
            name = self.library.cublasLtGetStatusName(status).decode()
            raise CublasLtError(f"{function}: {name}")


_SETTERS: dict[type, str] = {
    DescAttribute: "cublasLtMatmulDescSetAttribute",
    LayoutAttribute: "cublasLtMatrixLayoutSetAttribute",
    PreferenceAttribute: "cublasLtMatmulPreferenceSetAttribute",
}
