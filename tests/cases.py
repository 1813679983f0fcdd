"""The table: ways to call every operation, at inputs where it is smooth. The whole harness runs on it."""

from typing import Any

import numpy as np

from nanograd import ops
from nanograd.tensor import Tensor
from nanograd.testing import Case
from pre_process.encode_position import Scaling

RNG = np.random.default_rng(2024)
IDS = np.array([[0, 0, 4, 1], [1, 4, 0, 0]])  # every second id is asked for again; 2 and 3 never
PADDED = np.arange(7) < np.array([4, 7, 0])[:, None, None, None]  # (3, 1, 1, 7): half, whole, nothing to see
SCATTERED = RNG.random((2, 3, 5, 7)) < 0.5
SCATTERED[0, 1, 2] = False  # one query that sees nothing
TRUE_HALF = RNG.random((2, 3, 4)) < 0.5
STARTS = np.array([[0, 0, 2, 2, 2, 5, 5], [0, 1, 2, 3, 4, 5, 6], [0, 0, 0, 3, 0, 7, 0]])  # one query sees nothing
KEY = (20260102, 3)
OTHER = np.random.default_rng(8)
CODES = {  # small numbers, in each of the ways to hold them
    "int8": OTHER.integers(-7, 8, (5, 4)).astype(np.int8),
    "fp8": (OTHER.integers(0x20, 0x44, (5, 4)) | OTHER.integers(0, 2, (5, 4)) << 7).astype(np.uint8),
    "bf16": (OTHER.normal(size=(5, 4)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16),
}


def split(x: Tensor, sections: Any, *, axis: int) -> Tensor:
    """ops.split returns several tensors: weigh them differently and put them together again"""
    parts = ops.split(x, sections, axis=axis)
    return ops.concatenate(*[(i + 1.0) * part for i, part in enumerate(parts)][::-1], axis=axis)


ELEMENTWISE = [
    *(Case(op, (2, 1, 3), (4, 3)) for op in (ops.add, ops.sub, ops.mul)),
    Case(ops.add, (), (2, 3)),
    Case(ops.add, (2, 3), 1.5),
    Case(ops.sub, 1, (2, 3)),
    Case(ops.mul, (5,), 3),
    Case(ops.div, (2, 1, 3), (4, 3), within=(1.0, 3.0)),
    Case(ops.div, (3,), (), within=(-3.0, -1.0)),
    Case(ops.div, 2.0, (2, 3), within=(1.0, 3.0)),
    Case(ops.power, (2, 3), 2),
    Case(ops.power, (2, 3), 3.0),
    Case(ops.power, (2, 3), 1),
    Case(ops.power, (2, 3), 0),
    Case(ops.power, (2, 3), -0.5, within=(0.5, 2.0)),
    Case(ops.power, (2, 1, 3), (4, 3), within=(0.5, 2.0), overflows="100 to the power of 100 is no float32"),
    Case(ops.power, 2.0, (2, 3)),
    *(Case(op, (3, 4)) for op in (ops.neg, ops.abs, ops.tanh, ops.erf)),
    Case(ops.exp, (3, 4), overflows="e to the power of 100 is no float32"),
    *(Case(op, (3, 4), within=(0.5, 3.0)) for op in (ops.log, ops.sqrt)),
    *(Case(op, (2, 1, 3), (4, 3)) for op in (ops.maximum, ops.minimum)),
    *(Case(op, (2, 3), 0.5) for op in (ops.maximum, ops.minimum)),
    Case(ops.clip, (3, 5), low=-0.5, high=1),
    Case(ops.clip, (3, 5), low=0.5),
    Case(ops.clip, (3, 5), high=0.5),
    Case(ops.clip, (3, 5)),
    Case(ops.where, TRUE_HALF, (2, 3, 4), (3, 1)),
    Case(ops.where, TRUE_HALF[0], (2, 1, 4), -1.5),
    Case(ops.where, TRUE_HALF[0], 0, (3, 4)),
    Case(ops.cast, (2, 3), dtype=np.float64),
]
COMPARISON = [
    *(Case(op, (2, 1, 3), (4, 3)) for op in (ops.greater, ops.greater_equal, ops.less, ops.less_equal)),
    *(Case(op, IDS, IDS[0]) for op in (ops.equal, ops.not_equal)),
    Case(ops.greater, (2, 3), 0.5),
]
ACTIVATION = [
    *(Case(op, (3, 7), within=(-4.0, 4.0)) for op in (ops.sigmoid, ops.relu, ops.relu_squared, ops.silu, ops.gelu)),
    Case(ops.gelu, (3, 7), approximate="tanh", within=(-4.0, 4.0)),
    Case(ops.gelu, (), approximate="tanh"),
    Case(ops.swiglu, (2, 3, 10), within=(-4.0, 4.0)),
    Case(ops.swiglu, (2,)),
]
AXES: list[dict[str, Any]] = [
    {},
    {"axis": 1},
    {"axis": -1, "keepdims": True},
    {"axis": (0, -1)},
    {"axis": (2, 0), "keepdims": True},
    {"axis": ()},
]
REDUCTION = [
    *(Case(op, (2, 3, 4), **axes) for op in (ops.sum, ops.mean, ops.max, ops.min, ops.logsumexp) for axes in AXES),
    *(Case(ops.var, (2, 3, 4), **axes) for axes in AXES),
    Case(ops.var, (2, 3, 4), axis=(0, 2), correction=1),
    Case(ops.var, (5,), correction=2, keepdims=True),
    *(Case(op, ()) for op in (ops.sum, ops.mean, ops.max, ops.logsumexp)),
    *(Case(op, (1, 5), axis=0) for op in (ops.max, ops.logsumexp)),
]
SHAPE = [
    Case(ops.reshape, (2, 3, 4), shape=(6, 4)),
    Case(ops.reshape, (2, 3, 4), shape=(4, -1)),
    Case(ops.reshape, (1,), shape=()),
    Case(ops.transpose, (2, 3, 4)),
    Case(ops.transpose, (2, 3, 4), axes=(2, 0, 1)),
    Case(ops.transpose, (2, 3, 4), axes=(1, -1, 0)),
    Case(ops.swapaxes, (2, 3, 4), axis1=0, axis2=-1),
    Case(ops.expand, (3, 1), shape=(2, 3, 4)),
    Case(ops.expand, (), shape=(2,)),
    Case(ops.squeeze, (1, 3, 1, 4)),
    Case(ops.squeeze, (1, 3, 1, 4), axis=-2),
    Case(ops.squeeze, (1, 3, 1, 4), axis=(0, 2)),
    Case(ops.expand_dims, (3, 4), axis=-1),
    Case(ops.expand_dims, (3, 4), axis=(0, 2)),
    Case(ops.flip, (3, 4)),
    Case(ops.flip, (3, 4), axis=-1),
    Case(ops.pad, (2, 3), widths=((1, 0), (0, 2))),
    Case(ops.pad, (2, 3), widths=((0, 0), (3, 1)), value=-1.5),
    Case(ops.concatenate, (2, 3), (1, 3), (4, 3)),
    Case(ops.concatenate, (2, 3, 1), (2, 0, 1), (2, 2, 1), axis=-2),
    Case(ops.concatenate, (5,)),
    Case(ops.stack, (2, 3), (2, 3), (2, 3)),
    Case(ops.stack, (2, 3), (2, 3), axis=-1),
    Case(ops.stack, (), (), ()),
    Case(split, (2, 6), 3, axis=1),
    Case(split, (7, 2), [2, 0, 5], axis=-2),
]
INDEXING = [
    Case(ops.getitem, (4, 5), index=1),
    Case(ops.getitem, (4, 5), index=(-1, 2)),
    Case(ops.getitem, (4, 5), index=(slice(1, 4, 2), slice(None, None, -1))),
    Case(ops.getitem, (4, 5), index=(None, Ellipsis, 3, None)),
    Case(ops.getitem, (5, 3), index=IDS),
    Case(ops.getitem, (5, 3, 2), index=(slice(None), np.array([2, 0, 2, 2]))),
    Case(ops.getitem, (5, 3), index=(np.array([[4], [-5], [4]]), np.array([0, 2, 0]))),
    Case(ops.getitem, (5, 3), index=(np.array([0, 0]), None, slice(1, None))),
    Case(ops.embedding, (5, 3), IDS),
    Case(ops.embedding, (5, 3), IDS[0].astype(np.uint16)),
    Case(ops.embedding, (5, 1), np.array(4)),
]
MATRIX = [
    Case(ops.matmul, (3, 4), (4, 5)),
    Case(ops.matmul, (2, 3, 4), (4, 5)),
    Case(ops.matmul, (3, 4), (2, 4, 5)),
    Case(ops.matmul, (2, 1, 3, 4), (6, 4, 1)),
    Case(ops.matmul, (4,), (4, 5)),
    Case(ops.matmul, (3, 4), (4,)),
    Case(ops.matmul, (4,), (4,)),
    Case(ops.matmul, (4,), (2, 3, 4, 5)),
    Case(ops.matmul, (2, 3, 5, 4), (4,)),
    Case(ops.matmul, (1, 3), (3, 1)),
    Case(ops.linear, (2, 3, 4), (5, 4), (5,)),
    Case(ops.linear, (2, 3, 4), (5, 4), None),
    Case(ops.linear, (3, 4), (5, 4)),
    Case(ops.linear, (4,), (5, 4), (5,)),
    Case(ops.linear, (2, 3, 4), (5, 4), (5,), (2, 3, 5)),
    Case(ops.linear, (3, 4), (5, 4), None, (3, 5)),
    Case(ops.linear, (2, 1, 1, 1), (1, 1), (1,)),
]
QUANTIZED = [
    Case(ops.quantized_linear, (2, 3, 4), CODES["int8"], (5,), (5,), (2, 3, 5)),
    Case(ops.quantized_linear, (1, 4), CODES["int8"], (5,), None, (1, 5)),
    Case(ops.quantized_linear, (4,), CODES["int8"], (5,), (5,)),
    Case(ops.quantized_linear, (3, 4), CODES["fp8"], (5,), (5,)),
    Case(ops.quantized_linear, (4,), CODES["fp8"], (5,)),
    Case(ops.quantized_linear, (3, 4), CODES["bf16"], None, (5,), (3, 5)),
    Case(ops.quantized_linear, (3, 4), CODES["bf16"]),
]
MLP = [
    Case(ops.mlp, (2, 3, 4), (6, 4), (6,), (4, 6), (4,), (2, 3, 4), activation="gelu"),
    Case(ops.mlp, (2, 3, 4), (6, 4), (6,), (4, 6), (4,), None, activation="gelu-tanh"),
    Case(ops.mlp, (3, 4), (6, 4), None, (5, 6), None, (3, 5), activation="silu"),
    Case(ops.mlp, (3, 4), (6, 4), (6,), (4, 6), (4,), activation="relu2"),
    Case(ops.mlp, (3, 4), (6, 4), (6,), (4, 6), None, activation="relu"),
    Case(ops.mlp, (2, 3, 4), (12, 4), (12,), (4, 6), (4,), (2, 3, 4), activation="swiglu"),
    Case(ops.mlp, (4,), (2, 4), None, (3, 1), (3,), activation="swiglu"),
]
NORMALIZATION = [
    Case(ops.layer_norm, (2, 3, 5), (5,), (5,)),
    Case(ops.layer_norm, (2, 3, 5), (5,), None, eps=0.1),
    Case(ops.layer_norm, (7,), (7,), (7,)),
    Case(ops.rms_norm, (2, 3, 5), (5,)),
    Case(ops.rms_norm, (2, 3, 5), (5,), eps=0.1),
    Case(ops.rms_norm, (7,), (7,)),
    Case(ops.dyt, (2, 3, 5), (1,), (5,), (5,)),
    Case(ops.dyt, (7,), (1,), (7,), (7,)),
    Case(ops.derf, (2, 3, 5), (1,), (1,), (5,), (5,)),
    Case(ops.derf, (7,), (1,), (1,), (7,), (7,)),
    *(Case(op, (2, 3, 5)) for op in (ops.softmax, ops.log_softmax)),
    *(Case(op, (2, 3, 5), axis=1, temperature=0.4) for op in (ops.softmax, ops.log_softmax)),
    *(Case(op, (4, 1), axis=0, temperature=3) for op in (ops.softmax, ops.log_softmax)),
    Case(ops.dropout, (5, 7), p=0.4, key=KEY),
    Case(ops.dropout, (5, 7), p=0.0, key=None),
    Case(ops.dropout, (5, 7), p=1.0, key=KEY),
]
QKV = (3, 2, 5, 4), (3, 2, 7, 4), (3, 2, 7, 6)
SQUARE = (2, 3, 5, 4), (2, 3, 5, 4), (2, 3, 5, 4)
ATTENTION = [
    Case(ops.attention, *SQUARE, None, causal=False),
    Case(ops.attention, *SQUARE, None, causal=True),
    Case(ops.attention, *QKV, PADDED, causal=False),
    Case(ops.attention, *QKV, PADDED, causal=True, scale=0.3),
    Case(ops.attention, *QKV, SCATTERED[0, 0], causal=True, dropout=0.3, dropout_key=KEY),
    Case(ops.attention, (2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4), SCATTERED, causal=False),
    Case(ops.attention, (5, 4), (7, 4), (7, 3), None, causal=True),
    Case(ops.packed_attention, (3, 7, 12), None, n_heads=2, causal=True),
    Case(ops.packed_attention, (3, 7, 12), PADDED, n_heads=4, causal=False),
    Case(ops.packed_attention, (3, 7, 12), PADDED, n_heads=2, causal=True, dropout=0.3, dropout_key=KEY, scale=0.7),
    Case(ops.packed_attention, (1, 1, 3), None, n_heads=1, causal=True),
    Case(ops.attention, *SQUARE, None, STARTS[:2, None, :5], causal=True),
    Case(ops.attention, *QKV, PADDED, STARTS[0, :5], causal=False),
    Case(ops.attention, *QKV, SCATTERED[0, 0], None, causal=True, slopes=(0.5, 0.25)),
    Case(ops.attention, (5, 4), (7, 4), (7, 3), None, np.array(3), causal=True, slopes=(0.5,)),
    Case(ops.packed_attention, (3, 7, 12), None, STARTS, n_heads=2, causal=True),
    Case(ops.packed_attention, (3, 7, 12), PADDED, STARTS, n_heads=2, causal=True, slopes=(0.5, 0.25), scale=0.4),
    Case(ops.packed_attention, (3, 7, 12), n_heads=2, causal=True, slopes=(1, 0.1), dropout=0.3, dropout_key=KEY),
    Case(ops.attention, *QKV, None, causal=True, window=3),
    Case(ops.attention, (2, 4, 5, 4), (2, 2, 7, 4), (2, 2, 7, 4), PADDED[:2], causal=True),
    Case(ops.attention, (3, 5, 4), (1, 6, 4), (1, 6, 2), None, causal=False),
    Case(ops.packed_attention, (3, 7, 12), PADDED, STARTS, n_heads=2, causal=True, window=2, slopes=(1, 0.1)),
    Case(ops.attention_weights, *SQUARE[:2], None, causal=True, window=2),
    Case(ops.attention_weights, *QKV[:2], PADDED, causal=True),
    Case(ops.attention_weights, *SQUARE[:2], None, STARTS[2, :5], causal=True, slopes=(1, 0.5, 0.25)),
    Case(ops.attention_weights, *SQUARE[:2], None, causal=False, scale=2.0),
]
HEAD_NORM = [
    Case(ops.packed_head_norm, (3, 5, 24), n_heads=2),
    Case(ops.packed_head_norm, (2, 1, 9), n_heads=3, eps=0.1),
    Case(ops.packed_head_norm, (1, 4, 21), n_heads=1),
]
SCALINGS: list[tuple[Any, float, int]] = [(kind, 4.0, 64) for kind in ("linear", "ntk", "yarn", "llama3")]
PLACES = np.array([[0, 1, 2, 3, 4], [0, 0, 0, 1, 2], [7, 300, 65_535, 5, 4]])  # of sequences in a batch
ROTARY = [
    Case(ops.rotary, (2, 3, 5, 4), np.arange(5)),
    Case(ops.rotary, (3, 2, 5, 4), PLACES[:, None], layout="pairs"),
    Case(ops.rotary, (5, 6), PLACES[2].astype(np.uint16), base=500.0),
    Case(ops.rotary, (4, 2), np.array(-3)),
    *(Case(ops.rotary, (5, 8), PLACES[2], base=50.0, scaling=Scaling(*kind)) for kind in SCALINGS),
    Case(ops.packed_rotary, (3, 5, 24), PLACES, n_heads=2, layout="pairs", scaling=Scaling("yarn", 4.0, 64)),
    Case(ops.packed_rotary, (3, 5, 12), np.arange(5), n_heads=2),
    Case(ops.packed_rotary, (3, 5, 18), PLACES, n_heads=1, layout="pairs", base=100.0),
    Case(ops.packed_rotary, (1, 1, 6), np.array([9]), n_heads=1),
]
TARGETS = np.array([[0, 4, 2], [1, 1, 3]])
SOME_REAL = np.array([[0, -100, 2], [-100, 1, 3]])
LOSS = [
    Case(ops.cross_entropy, (2, 3, 5), TARGETS),
    Case(ops.cross_entropy, (2, 3, 5), SOME_REAL),
    Case(ops.cross_entropy, (2, 3, 5), TARGETS, ignore_index=1, label_smoothing=0.1),
    Case(ops.cross_entropy, (2, 3, 5), SOME_REAL, label_smoothing=0.2, z_loss=0.3),
    Case(ops.cross_entropy, (2, 3, 5), np.full((2, 3), -100), z_loss=0.1),
    Case(ops.cross_entropy, (5,), np.array(2)),
    Case(ops.cross_entropy, (300, 3), RNG.integers(0, 3, 300).astype(np.int32)),
    Case(ops.linear_cross_entropy, (2, 3, 4), (5, 4), (5,), TARGETS),
    Case(ops.linear_cross_entropy, (2, 3, 4), (5, 4), None, SOME_REAL, label_smoothing=0.2, z_loss=0.3),
    Case(ops.linear_cross_entropy, (2, 3, 4), (5, 4), (5,), TARGETS, ignore_index=1, label_smoothing=0.1),
    Case(ops.linear_cross_entropy, (2, 3, 1), (5, 1), None, np.full((2, 3), -100), z_loss=0.1),
    Case(ops.linear_cross_entropy, (4,), (5, 4), (5,), np.array(2)),
]
CASES = [
    *ELEMENTWISE,
    *COMPARISON,
    *ACTIVATION,
    *REDUCTION,
    *SHAPE,
    *INDEXING,
    *MATRIX,
    *QUANTIZED,
    *HEAD_NORM,
    *MLP,
    *NORMALIZATION,
    *ATTENTION,
    *ROTARY,
    *LOSS,
]
