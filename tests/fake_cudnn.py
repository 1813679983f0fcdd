"""A stand-in for cuDNN's Python interface, as far as attention goes: graphs are checked, NumPy does the sums.

It is given addresses, shapes and strides, and reads and writes the memory there, so an offset or a stride that is wrong
shows. Graphs must be validated and planned in order; a tensor that an execution lacks, and planning while a CUDA graph
is recorded, are refused.
"""

import ctypes
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

from tests import fake_cuda

__version__ = "1.24.1"
data_type = SimpleNamespace(FLOAT=np.dtype(np.float32), HALF=np.dtype(np.float16))
data_type.BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
heur_mode = SimpleNamespace(A="A", FALLBACK="FALLBACK")
STAGES = ["new", "validated", "built", "planned", "supported", "ready"]
WORKSPACE = 64  # bytes

handles: dict[int, Any] = {}  # the stream of each
executed: list[dict[str, Any]] = []  # the settings of every operation that was run


class Tensor:
    """Where numbers will be; setters return the tensor."""

    def __init__(self, name: str = "", dim: Any = None, stride: Any = None, data_type: Any = None) -> None:
        self.name, self.dim, self.stride, self.dtype, self.output = name, dim, stride, data_type, False

    def set_output(self, output: bool) -> "Tensor":
        self.output = output
        return self

    def set_dim(self, dim: list[int]) -> "Tensor":
        self.dim = dim
        return self

    def set_stride(self, stride: list[int]) -> "Tensor":
        self.stride = stride
        return self

    def set_data_type(self, data_type: Any) -> "Tensor":
        self.dtype = data_type
        return self

    def at(self, address: int) -> np.ndarray:
        length = 1 + sum((n - 1) * step for n, step in zip(self.dim, self.stride, strict=True))
        memory = (ctypes.c_char * (length * self.dtype.itemsize)).from_address(address)
        flat = np.frombuffer(memory, self.dtype)
        return np.lib.stride_tricks.as_strided(flat, self.dim, [step * self.dtype.itemsize for step in self.stride])


class pygraph:  # noqa: N801
    def __init__(
        self, io_data_type: Any, intermediate_data_type: Any, compute_data_type: Any, handle: Any = None
    ) -> None:
        assert compute_data_type == intermediate_data_type == np.float32
        self.handle, self.stage, self.operation = handle, "new", None
        self.inputs: dict[str, Tensor] = {}
        self.outputs: tuple[Tensor, ...] = ()

    def tensor(self, name: str, dim: Any, stride: Any, data_type: Any) -> Tensor:
        return Tensor(name, dim, stride, data_type)

    def sdpa(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        generate_stats: bool,
        attn_scale: float,
        use_causal_mask: bool,
        name: str,
    ) -> tuple[Tensor, ...]:
        assert generate_stats
        self.operation = {"run": _attend, "scale": attn_scale, "causal": use_causal_mask}
        self.inputs, self.outputs = {"q": q, "k": k, "v": v}, (Tensor("o"), Tensor("stats"))
        return self.outputs

    def sdpa_backward(
        self, q: Tensor, k: Tensor, v: Tensor, o: Tensor, dO: Tensor, stats: Tensor, *, attn_scale: float,
        use_causal_mask: bool, use_deterministic_algorithm: bool, name: str,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        assert use_deterministic_algorithm
        self.operation = {"run": _attend_backward, "scale": attn_scale, "causal": use_causal_mask}
        self.inputs = {"q": q, "k": k, "v": v, "o": o, "dO": dO, "stats": stats}
        self.outputs = tuple(Tensor(name) for name in ("dq", "dk", "dv"))
        return self.outputs

    def _step(self, stage: str) -> None:
        assert STAGES.index(stage) == STAGES.index(self.stage) + 1, f"{stage} after {self.stage}"
        self.stage = stage

    def validate(self) -> None:
        self._step("validated")
        for tensor in (*self.inputs.values(), *self.outputs):
            assert len(tensor.dim) == len(tensor.stride) == 4
            assert tensor.dtype is not None
            assert tensor.dim[3] % 8 == 0 or tensor.name == "stats"
        assert all(tensor.output for tensor in self.outputs)

    def build_operation_graph(self) -> None:
        assert self.handle in handles
        self._step("built")

    def create_execution_plans(self, modes: list[str]) -> None:
        fake_cuda.refuse("planning")
        self._step("planned")

    def check_support(self) -> None:
        self._step("supported")

    def build_plans(self) -> None:
        self._step("ready")

    def get_workspace_size(self) -> int:
        return WORKSPACE

    def execute(self, addresses: dict[Tensor, int], workspace: int, handle: int) -> None:
        assert self.stage == "ready"
        assert handles[handle] == fake_cuda.get_current_stream().ptr
        assert workspace
        assert workspace % 16 == 0
        views = [tensor.at(addresses[tensor]) for tensor in (*self.inputs.values(), *self.outputs)]
        operation = dict(self.operation)
        executed.append(operation)
        fake_cuda.enqueue(lambda: operation["run"](operation, *views))


def _weights(operation: Any, q: np.ndarray, k: np.ndarray) -> np.ndarray:
    scores = operation["scale"] * (q @ k.swapaxes(-1, -2))
    if operation["causal"]:
        scores[..., ~np.tri(scores.shape[-1], dtype=bool)] = -np.inf
    return scores


def _attend(operation: Any, *views: np.ndarray) -> None:
    q, k, v = (x.astype(np.float64) for x in views[:3])
    o, stats = views[3:]
    scores = _weights(operation, q, k)
    log_sum = np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    stats[...] = log_sum
    o[...] = (np.exp(scores - log_sum) @ v).astype(o.dtype)


def _attend_backward(operation: Any, *views: np.ndarray) -> None:
    q, k, v, o, do, stats = (x.astype(np.float64) for x in views[:6])
    dq, dk, dv = views[6:]
    p = np.exp(_weights(operation, q, k) - stats)
    ds = operation["scale"] * p * (do @ v.swapaxes(-1, -2) - (do * o).sum(axis=-1, keepdims=True))
    for gradient, value in ((dq, ds @ k), (dk, ds.swapaxes(-1, -2) @ q), (dv, p.swapaxes(-1, -2) @ do)):
        gradient[...] = value.astype(gradient.dtype)


def create_handle() -> int:
    handles[len(handles) + 1] = None
    return len(handles)


def set_stream(handle: int, stream: int) -> None:
    handles[handle] = stream


def backend_version() -> int:
    return 91900
