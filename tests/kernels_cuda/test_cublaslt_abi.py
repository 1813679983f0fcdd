"""Our table of cuBLASLt's numbers against its headers, and its descriptors of GPT-2's products, without a driver."""

import ctypes
import math
import re
from ctypes import byref, c_size_t, c_void_p
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanograd.backend import DeviceError
from nanograd.kernels.cuda import cublaslt_abi as abi
from nanograd.kernels.cuda.cublaslt_abi import ATTRIBUTE_TYPES, Compute, DescAttribute, LayoutAttribute
from nanograd.kernels.cuda.cublaslt_library import CublasLt
from nanograd.kernels.cuda.gemm_problem import EPILOGUES, Operands, problem

PREFIXES = {
    abi.Status: "CUBLAS_STATUS_",
    abi.Compute: "CUBLAS_",
    abi.Operation: "CUBLAS_OP_",
    abi.Epilogue: "CUBLASLT_EPILOGUE_",
    abi.DescAttribute: "CUBLASLT_MATMUL_DESC_",
    abi.LayoutAttribute: "CUBLASLT_MATRIX_LAYOUT_",
    abi.PreferenceAttribute: "CUBLASLT_MATMUL_PREF_",
    abi.Reduction: "CUBLASLT_REDUCTION_SCHEME_",
}
TYPES_OF_C = {"int32_t": 4, "uint32_t": 4, "int64_t": 8, "uint64_t": 8, "void *": 8, "const void *": 8}


@pytest.fixture(scope="module")
def library() -> Any:
    try:
        return abi.load_library()
    except DeviceError:
        pytest.skip("no libcublasLt here: pip install nvidia-cublas")


@pytest.fixture(scope="module")
def header() -> str:
    """cublasLt.h and cublas_api.h of the wheel."""
    pathfinder = pytest.importorskip("cuda.pathfinder")
    folder = pathfinder.find_nvidia_header_directory("cublas")
    if folder is None:
        pytest.skip("no cublasLt.h here: pip install nvidia-cublas")
    return "\n".join((Path(folder) / name).read_text(encoding="utf-8") for name in ("cublasLt.h", "cublas_api.h"))


def number(header: str, name: str) -> int:
    """What the header defines this name as: sums of bits may name other names."""
    found = re.search(rf"\b{name} = ([^,/\n]+)", header)
    assert found, f"{name} is not in the header"
    total = 0
    for part in found[1].strip(" ()").split("|"):
        total |= int(part, 0) if part.strip()[0].isdigit() else number(header, part.strip())
    return total


@pytest.mark.parametrize("names", PREFIXES, ids=lambda names: names.__name__)
def test_our_numbers_are_the_header_s(names, header):
    for member in names:
        assert number(header, PREFIXES[names] + member.name) == member.value, member


@pytest.mark.parametrize("names", ATTRIBUTE_TYPES, ids=lambda names: names.__name__)
def test_attributes_are_as_long_as_the_header_says(names, header):
    """The type stands in the comment above the attribute: `int32_t, default: …`."""
    assert set(ATTRIBUTE_TYPES[names]) == set(names)
    for member, ctype in ATTRIBUTE_TYPES[names].items():
        before = header[: header.index(f"{PREFIXES[names]}{member.name} = ")]
        comment = before[before.rindex("/**") :]
        kind = re.findall(
            r"^\s*\*\s*(?:Bias case: |Forward pass: )?((?:const )?\w+(?: \*)?)(?:, default.*)?$", comment, re.M
        )
        assert ctypes.sizeof(ctype) in {TYPES_OF_C[found] for found in kind if found in TYPES_OF_C}, member


def test_structures_are_as_long_as_the_header_says(header):
    algorithm = re.search(r"uint64_t data\[(\d+)\];\n\} cublasLtMatmulAlgo_t", header)
    assert ctypes.sizeof(abi.Algorithm) == 8 * int(algorithm[1])
    result = header[: header.index("} cublasLtMatmulHeuristicResult_t")].rpartition("typedef struct {")[2]
    fields = re.findall(r"^  \w+ (\w+)(?:\[\d\])?;", result, re.M)
    assert fields == ["algo", "workspaceSize", "state", "wavesCount", "reserved"]
    assert ctypes.sizeof(abi.HeuristicResult) == 64 + 8 + 4 + 4 + 16


ENUMS = ("int", "cublasStatus_t", "cublasComputeType_t", "cudaDataType", "cudaDataType_t")


def test_functions_take_what_the_header_says(header):
    """As many arguments, each as wide: enumerations are 4 bytes, handles, pointers and sizes 8."""
    text = re.sub(r"/\*.*?\*/|//.*", "", header)
    for name, arguments in abi.FUNCTIONS.items():
        declared = re.search(rf"CUBLASWINAPI {name}\(([^)]*)\)", text)
        assert declared, name
        kinds = [kind.strip() for kind in declared[1].split(",") if kind.strip() != "void"]
        enums = [kind.split()[0].endswith(("Attributes_t", "Attribute_t", *ENUMS)) for kind in kinds]
        pointers = ["*" in kind or "[" in kind for kind in kinds]
        widths = [4 if enum and not pointer else 8 for enum, pointer in zip(enums, pointers, strict=True)]
        assert widths == [ctypes.sizeof(ctype) for ctype in arguments], name


# The real library builds descriptors without a driver. It does not check them, but it reads them back.


def array(*shape: int, dtype: Any = "bfloat16", turned: bool = False) -> Any:
    """What the problem is made of, without the memory."""
    itemsize = 4 if dtype == "float32" else 2
    strides = [itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape))]
    if turned:
        shape, strides = (*shape[:-2], shape[-1], shape[-2]), [*strides[:-2], strides[-1], strides[-2]]
    name = _Type(dtype)
    flags = SimpleNamespace(c_contiguous=not turned)
    return SimpleNamespace(
        shape=tuple(shape), strides=tuple(strides), dtype=name, itemsize=itemsize, ndim=len(shape),
        size=math.prod(shape), data=SimpleNamespace(ptr=1 << 20), flags=flags,
    )  # fmt: skip


class _Type(str):
    """A dtype that is compared by its name."""

    name = property(str)


def gpt2_products() -> list[Operands]:
    """Forward and backward of every layer of GPT-2 124M, B = 64, T = 1024, with the epilogues that its MLP has."""
    rows, products = 64 * 1024, []
    for d_in, d_out in ((768, 2304), (768, 768), (768, 3072), (3072, 768), (768, 50304)):
        x, w, y = array(rows, d_in), array(d_out, d_in, turned=True), array(rows, d_out)
        dw, bias, sums = array(d_out, d_in, dtype="float32"), array(d_out), array(d_out, dtype="float32")
        products += [
            Operands(x, w, y, y, "bias", bias, None),
            Operands(x, w, y, y, "gelu_aux_bias", bias, y),
            Operands(y, array(d_out, d_in), x, x, None, None, None),
            Operands(y, array(d_out, d_in), x, x, "dgelu", None, x),
            Operands(array(rows, d_out, turned=True), x, dw, dw, "bgrad_a", sums, None),
        ]
    query, scores = array(64, 12, 1024, 64), array(64, 12, 1024, 1024)
    return [*products, Operands(query, array(64, 12, 1024, 64, turned=True), scores, scores, None, None, None)]


def test_descriptors_of_gpt_2_are_built_without_a_driver(library):
    cublaslt = object.__new__(CublasLt)  # without the handle, for which there must be a driver
    cublaslt.library = library
    for name in ("cublasLtMatmulDescGetAttribute", "cublasLtMatrixLayoutGetAttribute"):
        getattr(library, name).argtypes = (c_void_p, ctypes.c_int, c_void_p, c_size_t, c_void_p)
    for operands in gpt2_products():
        asked, batch = problem(operands, Compute.COMPUTE_32F)
        description = cublaslt._description(asked)
        stored = {a: _stored(library.cublasLtMatmulDescGetAttribute, description, a) for a in DescAttribute}
        assert stored[DescAttribute.EPILOGUE] == EPILOGUES[operands.epilogue]
        assert (stored[DescAttribute.TRANSA], stored[DescAttribute.TRANSB]) == (asked.transpose_a, asked.transpose_b)
        assert stored[DescAttribute.EPILOGUE_AUX_LD] == asked.aux_leading
        for matrix in asked[:4]:
            layout = cublaslt._layout(matrix, asked.batch)
            read = library.cublasLtMatrixLayoutGetAttribute
            assert _stored(read, layout, LayoutAttribute.BATCH_COUNT) == batch.at_once
            assert _stored(read, layout, LayoutAttribute.STRIDED_BATCH_OFFSET) == matrix.stride
        assert cublaslt._preference(asked).value


def _stored(read: Any, thing: Any, attribute: Any) -> int:
    value = ATTRIBUTE_TYPES[type(attribute)][attribute]()
    assert read(thing, attribute, byref(value), ctypes.sizeof(value), byref(c_size_t())) == 0
    return value.value or 0


def test_pointers_of_epilogues_survive_whole(library):
    cublaslt = object.__new__(CublasLt)
    cublaslt.library = library
    library.cublasLtMatmulDescGetAttribute.argtypes = (c_void_p, ctypes.c_int, c_void_p, c_size_t, c_void_p)
    description = cublaslt._description(problem(gpt2_products()[0], Compute.COMPUTE_32F)[0])
    for attribute in (DescAttribute.BIAS_POINTER, DescAttribute.EPILOGUE_AUX_POINTER):
        cublaslt._set(description, attribute, 0x7F12_3456_7890)
        assert _stored(library.cublasLtMatmulDescGetAttribute, description, attribute) == 0x7F12_3456_7890


def test_without_the_library_one_line_says_what_to_install(monkeypatch):
    pathfinder = pytest.importorskip("cuda.pathfinder")

    def missing(name: str) -> None:
        raise RuntimeError("DynamicLibNotFoundError")

    monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", missing)
    with pytest.raises(DeviceError, match=r"^matrix products .* no libcublasLt was found: pip install nvidia-cublas"):
        abi._open()
