"""Floor 3. cuBLASLt as C declares it: the numbers of its headers, its functions, and where the library is.

Each class of numbers says with which prefix a header spells its names; a test compares them with the headers.
Source: https://docs.nvidia.com/cuda/cublas/#using-the-cublaslt-api; cublasLt.h and cublas_api.h of CUDA 13
"""

import ctypes
import functools
from collections.abc import Mapping
from ctypes import POINTER, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from enum import IntEnum
from typing import Any, TypeAlias

from nanograd.backend import DeviceError

CType: TypeAlias = Any  # one of ctypes' simple types


class Status(IntEnum):
    """CUBLAS_STATUS_…"""

    SUCCESS = 0
    NOT_INITIALIZED = 1
    ALLOC_FAILED = 3
    INVALID_VALUE = 7
    ARCH_MISMATCH = 8
    MAPPING_ERROR = 11
    EXECUTION_FAILED = 13
    INTERNAL_ERROR = 14
    NOT_SUPPORTED = 15
    LICENSE_ERROR = 16


class DataType(IntEnum):
    """CUDA_…, from library_types.h: what a matrix is stored in"""

    R_32F = 0
    R_16F = 2
    R_16BF = 14


class Compute(IntEnum):
    """CUBLAS_…: what products are computed in. All of these add up in float32"""

    COMPUTE_32F = 68
    COMPUTE_32F_FAST_16BF = 75  # float32 factors are rounded to bfloat16
    COMPUTE_32F_FAST_TF32 = 77  # float32 factors are rounded to 10 bits of mantissa


class Operation(IntEnum):
    """CUBLAS_OP_…"""

    N = 0
    T = 1


class Epilogue(IntEnum):
    """CUBLASLT_EPILOGUE_…: what is done to the product before it is stored. Rows and columns are cuBLASLt's"""

    DEFAULT = 1
    BIAS = 4
    GELU_AUX = 32 | 128
    GELU_AUX_BIAS = 32 | 128 | 4
    DGELU = 64 | 128
    DGELU_BGRAD = 64 | 128 | 16
    BGRADA = 256
    BGRADB = 512


class DescAttribute(IntEnum):
    """CUBLASLT_MATMUL_DESC_…"""

    TRANSA = 3
    TRANSB = 4
    EPILOGUE = 7
    BIAS_POINTER = 8
    EPILOGUE_AUX_POINTER = 11
    EPILOGUE_AUX_LD = 12


class LayoutAttribute(IntEnum):
    """CUBLASLT_MATRIX_LAYOUT_…"""

    BATCH_COUNT = 5
    STRIDED_BATCH_OFFSET = 6


class PreferenceAttribute(IntEnum):
    """CUBLASLT_MATMUL_PREF_…"""

    MAX_WORKSPACE_BYTES = 1
    REDUCTION_SCHEME_MASK = 3
    MIN_ALIGNMENT_A_BYTES = 5
    MIN_ALIGNMENT_B_BYTES = 6
    MIN_ALIGNMENT_C_BYTES = 7
    MIN_ALIGNMENT_D_BYTES = 8


class Reduction(IntEnum):
    """CUBLASLT_REDUCTION_SCHEME_…: how the parts of a product are added up whose long axis several blocks share"""

    COMPUTE_TYPE = 2  # in float32, one after the other; the other schemes would add up in bfloat16


# As the header's comments give them; the size is passed along. One table for each class: 8 is an attribute of each.
ATTRIBUTE_TYPES: Mapping[type[IntEnum], Mapping[IntEnum, CType]] = {
    DescAttribute: {
        DescAttribute.TRANSA: c_int32,
        DescAttribute.TRANSB: c_int32,
        DescAttribute.EPILOGUE: c_uint32,
        DescAttribute.BIAS_POINTER: c_void_p,
        DescAttribute.EPILOGUE_AUX_POINTER: c_void_p,
        DescAttribute.EPILOGUE_AUX_LD: c_int64,
    },
    LayoutAttribute: {
        LayoutAttribute.BATCH_COUNT: c_int32,
        LayoutAttribute.STRIDED_BATCH_OFFSET: c_int64,
    },
    PreferenceAttribute: {
        PreferenceAttribute.MAX_WORKSPACE_BYTES: c_uint64,
        PreferenceAttribute.REDUCTION_SCHEME_MASK: c_uint32,
        PreferenceAttribute.MIN_ALIGNMENT_A_BYTES: c_uint32,
        PreferenceAttribute.MIN_ALIGNMENT_B_BYTES: c_uint32,
        PreferenceAttribute.MIN_ALIGNMENT_C_BYTES: c_uint32,
        PreferenceAttribute.MIN_ALIGNMENT_D_BYTES: c_uint32,
    },
}


class Algorithm(ctypes.Structure):
    """cublasLtMatmulAlgo_t"""

    _fields_ = (("data", c_uint64 * 8),)


class HeuristicResult(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t"""

    _fields_ = (
        ("algorithm", Algorithm),
        ("workspace_size", c_size_t),
        ("state", c_int),
        ("waves", ctypes.c_float),
        ("reserved", c_int * 4),
    )


_SET_ATTRIBUTE = (c_void_p, c_int, c_void_p, c_size_t)
FUNCTIONS: Mapping[str, tuple[CType, ...]] = {  # each answers with a status, except for the last two
    "cublasLtCreate": (POINTER(c_void_p),),
    "cublasLtMatmulDescCreate": (POINTER(c_void_p), c_int, c_int),
    "cublasLtMatmulDescSetAttribute": _SET_ATTRIBUTE,
    "cublasLtMatrixLayoutCreate": (POINTER(c_void_p), c_int, c_uint64, c_uint64, c_int64),
    "cublasLtMatrixLayoutSetAttribute": _SET_ATTRIBUTE,
    "cublasLtMatmulPreferenceCreate": (POINTER(c_void_p),),
    "cublasLtMatmulPreferenceSetAttribute": _SET_ATTRIBUTE,
    "cublasLtMatmulPreferenceDestroy": (c_void_p,),
    "cublasLtMatmulAlgoGetHeuristic": (*[c_void_p] * 7, c_int, POINTER(HeuristicResult), POINTER(c_int)),
    # handle, descriptor, α, A and its layout, B …, β, C …, D …, algorithm, workspace, its size, stream
    "cublasLtMatmul": (*[c_void_p] * 14, c_size_t, c_void_p),
    "cublasLtGetStatusName": (c_int,),
    "cublasLtGetVersion": (),
}


@functools.cache
def load_library() -> Any:
    """The shared library, its functions declared. Raises DeviceError, which says what to install, if there is none."""
    library = _open()
    for name, arguments in FUNCTIONS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, c_int
    library.cublasLtGetStatusName.restype = c_char_p
    library.cublasLtGetVersion.restype = c_size_t
    return library


def _open() -> ctypes.CDLL:
    """From NVIDIA's wheels, conda or a CUDA toolkit, where cuda-pathfinder (CuPy needs it too) knows them all."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        path = load_nvidia_dynamic_lib("cublasLt").abs_path
        if path is None:
            raise OSError("cublasLt was loaded from an unknown place")
        return ctypes.CDLL(path)
    except (ImportError, OSError, RuntimeError):  # DynamicLibNotFoundError is a RuntimeError
        raise DeviceError(
            "matrix products on a CUDA device need cuBLASLt, and no libcublasLt was found: "
            "pip install nvidia-cublas (for CUDA 12: nvidia-cublas-cu12), or install the CUDA toolkit"
        ) from None
