"""Floor 3. Flash attention in bfloat16 and float16: no T × S matrix, no atomics. Twins of nanograd/ops/attention.py.

Heads of up to 128 numbers, a multiple of 8; anything that the operations know. Saved: y, and ℓ = ln Σ exp of each
query's scores. In float32 the formula runs: its products want the tensor cores of 16-bit numbers, and whoever asks for
float32 asks for its precision.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from nanograd import backend
from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cuda.launch import Twin, launch, type_name
from nanograd.ops.attention import Slopes, attention, broadcasts, check_slopes, packed_attention
from nanograd.ops.dropout import Key
from nanograd.primitive import Needs

THREADS = 128  # of every block: four warps
MOST_BLOCKS = 65_535  # in the second and third axis of a grid: heads and sequences


class Tiles(NamedTuple):
    """A block's work: `own` rows, for which it goes through the others `step` at a time, in buffers that take turns.

    As in the .cu files: larger tiles are read less often, and these are the largest whose sums fit the registers.
    """

    own: int
    step: int


TILES = {  # columns of a tile: forward, backward over queries, backward over keys
    64: (Tiles(128, 64), Tiles(128, 32), Tiles(128, 32)),
    128: (Tiles(128, 32), Tiles(64, 64), Tiles(64, 64)),
}
STRIDED = ("q", "k", "v", "y", "dy", "dq", "dk", "dv", "mask", "starts")
_STRIDES = np.dtype([("batch", np.int64), ("head", np.int64), ("row", np.int64)])
_ATTENTION = np.dtype(  # struct Attention in attention_tiles.h
    [(name, _STRIDES) for name in STRIDED]
    + [("mask_column", np.int64), ("seed", np.uint64), ("call", np.uint64), ("threshold", np.uint32)]
    + [("keep_scale", np.float32), ("scale", np.float32)]
    + [(name, np.int32) for name in ("T", "S", "D", "heads_per_key", "causal", "window", "reserved")]
)


class Scene(NamedTuple):
    """What both passes are told besides q, k, v and y; arrays are (B, H, …) views or None."""

    mask: Array
    starts: Array
    slopes: Array
    call_there: Array  # the call of the dropout mask, where it changes between replays of a recorded step
    sizes: dict[str, Any]  # the rest of the struct

    def pointers(self) -> tuple[Array, ...]:
        return self.mask, self.starts, self.slopes, self.call_there

    def struct(self, **arrays: Array) -> Any:
        """The struct, by value, with the strides of these arrays."""
        filled = np.zeros((), _ATTENTION)
        for name, x in {**arrays, "mask": self.mask, "starts": self.starts}.items():
            if x is not None:
                filled[name] = tuple(stride // x.itemsize for stride in x.strides[:3])
        if self.mask is not None:
            filled["mask_column"] = self.mask.strides[3]
        for name, value in self.sizes.items():
            filled[name] = value
        return filled[()]


def _scene(
    xp: ArrayModule,
    q: Array,
    k: Array,
    mask: Array,
    starts: Array,
    *,
    causal: bool,
    dropout: float = 0.0,
    dropout_key: Key | None = None,
    scale: float | None = None,
    slopes: Slopes = None,
    window: int | None = None,
) -> Scene | None:
    """Of q (B, H, T, D) and k (B, G, S, D), H a multiple of G; None for what the formula should say or do."""
    (B, H, T, D), S = q.shape, k.shape[2]
    scale = 1 / math.sqrt(D) if scale is None else scale
    if not 0 <= dropout < 1 or (dropout and dropout_key is None) or not 0 < scale < math.inf:
        return None
    if (causal and S < T) or (window is not None and (window < 1 or not causal)):
        return None
    if mask is not None and (mask.dtype != bool or not broadcasts(mask.shape, (B, H, T, S))):
        return None
    if starts is not None and (starts.dtype.kind not in "iu" or not broadcasts(starts.shape, (B, H, T))):
        return None
    if slopes is not None:
        check_slopes(slopes, (B, H, T, S), causal)
        slopes = _slopes_on_device(xp, backend.device_of(q), tuple(slopes))
    seed, call = dropout_key if dropout and dropout_key else (0, 0)
    here, there = (call % 2**64, None) if isinstance(call, int) else (0, call)
    sizes = {
        **{"T": T, "S": S, "D": D, "heads_per_key": H // k.shape[1], "causal": causal, "scale": scale},
        **{"window": min(window or 0, 2**31 - 1), "seed": seed % 2**64, "call": here},
        **{"threshold": int(dropout * 2**32), "keep_scale": 1 / (1 - dropout)},
    }
    mask = None if mask is None else xp.broadcast_to(mask, (B, H, T, S))
    starts = None if starts is None else xp.broadcast_to(starts.astype(np.int32, copy=False), (B, H, T))
    return Scene(mask, starts, slopes, there, sizes)


@functools.lru_cache(maxsize=64)
def _slopes_on_device(xp: ArrayModule, device: str, slopes: tuple[float, ...]) -> Array:
    """Copied once: a step that is recorded may not copy from the host."""
    return xp.asarray(np.array(slopes, np.float32))


def _run_forward(xp: ArrayModule, q: Array, k: Array, v: Array, y: Array, scene: Scene) -> Array:
    """Fills y; returns ℓ, (B, H, T)."""
    log_sum = xp.empty(q.shape[:3], xp.float32)
    arrays = y, log_sum, q, k, v, *scene.pointers()
    _launch(xp, "attention_forward", q, q.shape[2], 0, *arrays, scene.struct(q=q, k=k, v=v, y=y))
    return log_sum


def _run_backward(
    xp: ArrayModule, dy: Array, saved: tuple[Array, ...], gradients: tuple[Array, ...], scene: Scene
) -> None:
    """Fills dq, dk and dv."""
    (q, k, v, y, log_sum), (dq, dk, dv) = saved, gradients
    delta = xp.empty(log_sum.shape, xp.float32)  # the first pass leaves it for the second
    told = scene.struct(q=q, k=k, v=v, y=y, dy=dy, dq=dq, dk=dk, dv=dv)
    arrays = dq, delta, dy, q, k, v, y, log_sum, *scene.pointers()
    _launch(xp, "attention_backward_queries", q, q.shape[2], 1, *arrays, told)
    arrays = dk, dv, dy, q, k, v, log_sum, delta, *scene.pointers()
    _launch(xp, "attention_backward_keys", k, k.shape[2], 2, *arrays, told)


def _launch(xp: ArrayModule, kernel: str, x: Array, rows: int, which: int, *arguments: Any) -> None:
    """One block for each tile of x's rows, head and sequence."""
    columns = 64 if x.shape[3] <= 64 else 128
    own, step = TILES[columns][which]
    tiles = own * (1 if which == 0 else 2) + step * 4  # forward: q, and k and v twice; backward: two, and two twice
    shared = 2 * columns * tiles + (4 * step * 4 if which == 2 else 0)  # ℓ and δ of two tiles of queries
    grid = math.ceil(rows / own), x.shape[1], x.shape[0]
    launch(xp, f"{kernel}_{columns}_{type_name(x.dtype)}", grid, THREADS, *arguments, shared=shared)


def _takes(q: Array, k: Array, v: Array) -> bool:
    """Can the kernels compute with these (B, H, T, D), (B, G, S, D) and (B, G, S, D)?"""
    if type_name(q.dtype) not in ("bf16", "f16") or k.shape != v.shape or 0 in (*q.shape, *k.shape):
        return False
    (B, H, _, D), (B_keys, G, _, D_keys) = q.shape, k.shape
    return bool(B_keys == B and H % G == 0 and D_keys == D and D % 8 == 0 and D <= 128 and max(B, H) <= MOST_BLOCKS)


def _readable(xp: ArrayModule, x: Array) -> Array:
    """x itself if its rows are in one piece and begin at addresses that 16 divides, else a copy."""
    strides = [stride for stride, length in zip(x.strides[:-1], x.shape[:-1], strict=True) if length > 1]
    fits = x.strides[-1] == x.itemsize and x.data.ptr % 16 == 0 and all(stride % 16 == 0 for stride in strides)
    return x if fits else xp.array(x, order="C")


def _four_axes(x: Array) -> Array:
    """(…, T, D) → (B, H, T, D)"""
    return x[(None,) * (4 - x.ndim)]


def _heads(x: Array, parts: int, n_heads: int) -> Any:
    """(B, T, parts · H · D) → `parts` views (B, H, T, D)"""
    B, T, width = x.shape
    return x.reshape(B, T, parts, n_heads, width // (parts * n_heads)).transpose(2, 0, 3, 1, 4)


def _forward(
    xp: ArrayModule, query: Array, key: Array, value: Array, mask: Array = None, starts: Array = None, **settings: Any
) -> Any:
    if not 2 <= query.ndim <= 4 or not key.ndim == value.ndim == query.ndim:
        return NotImplemented
    q, k, v = (_four_axes(x) for x in (query, key, value))
    if not _takes(q, k, v) or (scene := _scene(xp, q, k, mask, starts, **settings)) is None:
        return NotImplemented
    q, k, v = (_readable(xp, x) for x in (q, k, v))
    y = xp.empty(q.shape, q.dtype)
    log_sum = _run_forward(xp, q, k, v, y, scene)
    return y.reshape(query.shape), (q, k, v, y, log_sum, scene, query.shape, key.shape)


def _backward(
    xp: ArrayModule,
    dy: Array,
    q: Array,
    k: Array,
    v: Array,
    y: Array,
    log_sum: Array,
    scene: Scene,
    query_shape: Any,
    key_shape: Any,
    *,
    needs: Needs,
    **settings: Any,
) -> Any:
    dq, dk, dv = (xp.empty(x.shape, x.dtype) for x in (q, k, v))
    _run_backward(xp, _readable(xp, _four_axes(dy)), (q, k, v, y, log_sum), (dq, dk, dv), scene)
    return dq.reshape(query_shape), dk.reshape(key_shape), dv.reshape(key_shape), *(None,) * (len(needs) - 3)


def _packed_forward(
    xp: ArrayModule, qkv: Array, mask: Array = None, starts: Array = None, *, n_heads: int, **settings: Any
) -> Any:
    if qkv.ndim != 3 or n_heads < 1 or qkv.shape[-1] % (3 * n_heads):
        return NotImplemented
    qkv = _readable(xp, qkv)
    q, k, v = _heads(qkv, 3, n_heads)
    starts = None if starts is None else starts[..., None, :]  # (B, 1, T): the same for all heads
    if not _takes(q, k, v) or (scene := _scene(xp, q, k, mask, starts, **settings)) is None:
        return NotImplemented
    y = xp.empty((*qkv.shape[:2], qkv.shape[2] // 3), qkv.dtype)
    log_sum = _run_forward(xp, q, k, v, _heads(y, 1, n_heads)[0], scene)
    return y, (qkv, y, log_sum, scene)


def _packed_backward(
    xp: ArrayModule,
    dy: Array,
    qkv: Array,
    y: Array,
    log_sum: Array,
    scene: Scene,
    *,
    n_heads: int,
    needs: Needs,
    **settings: Any,
) -> Any:
    dqkv = xp.empty(qkv.shape, qkv.dtype)
    (dy,), (y,) = _heads(_readable(xp, dy), 1, n_heads), _heads(y, 1, n_heads)
    _run_backward(xp, dy, (*_heads(qkv, 3, n_heads), y, log_sum), tuple(_heads(dqkv, 3, n_heads)), scene)
    return dqkv, *(None,) * (len(needs) - 1)


TWINS = (Twin(packed_attention, _packed_forward, _packed_backward), Twin(attention, _forward, _backward))
