"""Floor 3. Packed self-attention by NVIDIA's cuDNN, for those who install it and choose it: another twin of
packed_attention (nanograd/ops/attention.py), asked before our own kernel.

It takes 16-bit numbers, causal or not, without masks, documents, slopes, windows or dropout; the rest is left to the
next twin. cuDNN reads queries, keys and values where they lie in the packed array, and writes their gradients likewise.
A graph, in its words, is one operation on tensors of given shape and strides; its plan is made once and kept.
Source: https://docs.nvidia.com/deeplearning/cudnn/frontend/latest/operations/Attention.html
"""

import math
from typing import Any, NamedTuple

from nanograd.backend import Array, ArrayModule, DeviceError
from nanograd.ops.attention import packed_attention
from nanograd.primitive import Needs
from nanograd.tensor import Rule

TYPES = {"bfloat16": "BFLOAT16", "float16": "HALF"}
LONGEST_HEAD = 128


class CudnnError(RuntimeError):
    """cuDNN has no plan, or could not make one while a CUDA graph was recorded."""


class Shape(NamedTuple):
    """All that a graph depends on."""

    dtype: str
    B: int
    T: int
    H: int
    D: int
    causal: bool
    scale: float

    @property
    def heads(self) -> list[int]:
        return [self.B, self.H, self.T, self.D]

    def strides(self, parts: int) -> list[int]:
        """Of (B, H, T, D) as it lies in (B, T, parts · H · D)."""
        width = parts * self.H * self.D
        return [self.T * width, self.D, width, 1]


class Graph(NamedTuple):
    """A graph of cuDNN's, and its tensors by name."""

    graph: Any
    tensors: dict[str, Any]


class Plan(NamedTuple):
    """A graph that is ready, and the memory that it uses on the way."""

    graph: Graph
    workspace: Array
    handle: Any


def forward_graph(cudnn: Any, shape: Shape, handle: Any = None) -> Graph:
    """o = softmax(s q kᵀ) v, and its statistics: the logarithm of each row's sum, (B, H, T, 1) float32"""
    graph = _graph(cudnn, shape, handle)
    q, k, v = (_tensor(cudnn, graph, name, shape, parts=3) for name in "qkv")
    o, stats = graph.sdpa(
        name="attention", q=q, k=k, v=v, generate_stats=True, attn_scale=shape.scale, use_causal_mask=shape.causal
    )
    _output(o, shape.heads, shape.strides(1), _type(cudnn, shape))
    _output(stats, *_stats(shape), cudnn.data_type.FLOAT)
    graph.validate()
    return Graph(graph, {"q": q, "k": k, "v": v, "o": o, "stats": stats})


def backward_graph(cudnn: Any, shape: Shape, handle: Any = None) -> Graph:
    """dq, dk and dv, the same bits each time"""
    graph = _graph(cudnn, shape, handle)
    q, k, v = (_tensor(cudnn, graph, name, shape, parts=3) for name in "qkv")
    o, do = (_tensor(cudnn, graph, name, shape, parts=1) for name in ("o", "do"))
    dim, stride = _stats(shape)
    stats = graph.tensor(name="stats", dim=dim, stride=stride, data_type=cudnn.data_type.FLOAT)
    inputs = {"q": q, "k": k, "v": v, "o": o, "dO": do, "stats": stats}
    gradients = graph.sdpa_backward(
        name="attention_backward", **inputs, attn_scale=shape.scale, use_causal_mask=shape.causal,
        use_deterministic_algorithm=True,
    )  # fmt: skip
    for gradient in gradients:
        _output(gradient, shape.heads, shape.strides(3), _type(cudnn, shape))
    graph.validate()
    return Graph(graph, {**inputs, **dict(zip(("dq", "dk", "dv"), gradients, strict=True))})


def _graph(cudnn: Any, shape: Shape, handle: Any) -> Any:
    settings = {} if handle is None else {"handle": handle}
    wide = cudnn.data_type.FLOAT
    return cudnn.pygraph(
        io_data_type=_type(cudnn, shape), intermediate_data_type=wide, compute_data_type=wide, **settings
    )


def _type(cudnn: Any, shape: Shape) -> Any:
    return getattr(cudnn.data_type, TYPES[shape.dtype])


def _tensor(cudnn: Any, graph: Any, name: str, shape: Shape, *, parts: int) -> Any:
    return graph.tensor(name=name, dim=shape.heads, stride=shape.strides(parts), data_type=_type(cudnn, shape))


def _stats(shape: Shape) -> tuple[list[int], list[int]]:
    return [shape.B, shape.H, shape.T, 1], [shape.H * shape.T, shape.T, 1, 1]


def _output(tensor: Any, dim: list[int], stride: list[int], dtype: Any) -> None:
    tensor.set_output(True).set_dim(dim).set_stride(stride).set_data_type(dtype)


_plans: dict[Any, Plan] = {}
_handles: dict[int, Any] = {}


def check_installed() -> None:
    """Raise DeviceError, which says what to install, unless cuDNN and its Python interface are here."""
    try:
        import cudnn

        cudnn.backend_version()
    except (ImportError, RuntimeError, OSError):  # without libcudnn: "Unable to find symbol cudnnGetVersion"
        raise DeviceError(
            "attention by cuDNN needs cuDNN and nvidia-cudnn-frontend: pip install 'nanograd[cudnn]', "
            "or leave --attention-kernel own"
        ) from None


def forget() -> None:
    """Drop all plans and handles: they are made anew."""
    _plans.clear()
    _handles.clear()


def use(xp: ArrayModule, wanted: bool) -> None:
    """Have cuDNN do the attention that it knows on arrays of `xp`, or no longer. Raises as check_installed."""
    if wanted:
        check_installed()
    others = [rule for rule in packed_attention.twins.get(xp, []) if rule.forward is not _forward]
    packed_attention.twins[xp] = [Rule(_forward, _backward), *others] if wanted else others


def _forward(
    xp: ArrayModule,
    qkv: Array,
    mask: Array = None,
    starts: Array = None,
    *,
    n_heads: int,
    causal: bool,
    scale: float | None = None,
    **others: Any,
) -> Any:
    """y and the statistics; `others` are dropout, slopes and the like, which must be off"""
    shape = _shape(qkv, n_heads, causal, scale)
    if shape is None or mask is not None or starts is not None or any(others.values()):
        return NotImplemented
    y = xp.empty((shape.B, shape.T, shape.H * shape.D), qkv.dtype)
    stats = xp.empty((shape.B, shape.H, shape.T), "float32")
    _run(xp, forward_graph, shape, {**_parts(qkv, "q", "k", "v"), "o": y.data.ptr, "stats": stats.data.ptr})
    return y, (qkv, y, stats)


def _backward(
    xp: ArrayModule,
    dy: Array,
    qkv: Array,
    y: Array,
    stats: Array,
    *,
    n_heads: int,
    causal: bool,
    scale: float | None = None,
    needs: Needs,
    **others: Any,
) -> Any:
    shape, dqkv, dy = _shape(qkv, n_heads, causal, scale), xp.empty(qkv.shape, qkv.dtype), xp.ascontiguousarray(dy)
    addresses = {**_parts(qkv, "q", "k", "v"), **_parts(dqkv, "dq", "dk", "dv")}
    addresses |= {"o": y.data.ptr, "dO": dy.data.ptr, "stats": stats.data.ptr}
    _run(xp, backward_graph, shape, addresses)
    return dqkv, *(None,) * (len(needs) - 1)


def _shape(qkv: Array, n_heads: int, causal: bool, scale: float | None) -> Shape | None:
    """None for what cuDNN does not take; what is wrong with it, others say."""
    if qkv.ndim != 3 or n_heads < 1 or qkv.shape[2] % (3 * n_heads) or not qkv.size:
        return None
    B, T, _ = qkv.shape
    D = qkv.shape[2] // (3 * n_heads)
    dense = qkv.flags.c_contiguous and qkv.data.ptr % 16 == 0
    if qkv.dtype.name not in TYPES or D % 8 or D > LONGEST_HEAD or not dense:
        return None
    return Shape(qkv.dtype.name, B, T, n_heads, D, causal, 1 / math.sqrt(D) if scale is None else scale)


def _parts(packed: Array, *names: str) -> dict[str, int]:
    """Where queries, keys and values begin in (B, T, 3C)."""
    step = packed.shape[2] // 3 * packed.itemsize
    return {name: packed.data.ptr + i * step for i, name in enumerate(names)}


def _run(xp: ArrayModule, build: Any, shape: Any, addresses: dict[str, int]) -> None:
    import cudnn

    stream, device = xp.cuda.get_current_stream(), xp.cuda.runtime.getDevice()
    key = xp, device, stream.ptr, build, shape
    if key not in _plans:
        if stream.is_capturing():
            raise CudnnError("cuDNN can't plan attention while a CUDA graph is recorded: run the step once before")
        _plans[key] = _plan(xp, cudnn, build, shape, device)
    (graph, tensors), workspace, handle = _plans[key]
    cudnn.set_stream(handle=handle, stream=stream.ptr)
    graph.execute({tensors[name]: address for name, address in addresses.items()}, workspace.data.ptr, handle=handle)


def _plan(xp: ArrayModule, cudnn: Any, build: Any, shape: Any, device: int) -> Plan:
    """Let the heuristics choose, and the fallback if they know nothing."""
    if device not in _handles:
        _handles[device] = cudnn.create_handle()
    made = build(cudnn, shape, _handles[device])
    made.graph.build_operation_graph()
    made.graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    made.graph.check_support()
    made.graph.build_plans()
    return Plan(made, xp.empty(max(made.graph.get_workspace_size(), 1), "uint8"), _handles[device])
