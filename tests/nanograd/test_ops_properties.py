"""Random shapes, axes, indices and masks: each operation against a slow formula that leaves no room for mistakes."""

import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nanograd import ops
from nanograd.tensor import Tensor
from nanograd.testing import gradient_check, random_like, value_and_gradients

few = settings(max_examples=60, deadline=None)
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)


def draw(seed: int, *shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.uniform(0.5, 2.0, shape)) for shape in shapes]


def gather(at: Any, dy: Any, shape: tuple[int, ...]) -> Any:
    """Add each number of dy to the element of `shape` that it came from; `at` holds their flat places."""
    return np.bincount(at.ravel(), dy.ravel(), minlength=math.prod(shape)).reshape(shape)


def places(shape: tuple[int, ...]) -> Any:
    return np.arange(math.prod(shape)).reshape(shape)


@given(hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=4, max_dims=4), st.integers(0, 99))
@few
def test_broadcasting(pair, seed):
    (shape_a, shape_b), shape = pair
    a, b = draw(seed, shape_a, shape_b)
    slopes = {  # y, dy/da, dy/db
        ops.add: (a + b, 1, 1),
        ops.sub: (a - b, 1, -1),
        ops.mul: (a * b, b, a),
        ops.div: (a / b, 1 / b, -a / b**2),
        ops.power: (a**b, b * a ** (b - 1), a**b * np.log(a)),
    }
    for op, (expected, da, db) in slopes.items():
        y, gradients = value_and_gradients(op, [a, b])
        np.testing.assert_array_equal(y, expected)
        for dx, slope, x in zip(gradients, (da, db), (a, b), strict=True):
            at = np.broadcast_to(places(x.shape), shape)
            expected_dx = gather(at, np.broadcast_to(random_like(y) * slope, shape), x.shape)
            np.testing.assert_allclose(dx, expected_dx, rtol=1e-10, atol=1e-12)


@st.composite
def shapes_and_indices(draw_from):
    shape = draw_from(hnp.array_shapes(min_dims=1, max_dims=3, max_side=5))
    kind = draw_from(st.sampled_from(["basic", "integers", "mask", "mixed"]))
    if kind == "basic":
        return shape, draw_from(hnp.basic_indices(shape, allow_newaxis=True))
    if kind == "mask":
        return shape, draw_from(hnp.arrays(bool, shape))
    if kind == "integers":
        return shape, draw_from(hnp.integer_array_indices(shape))
    rows = draw_from(hnp.arrays(np.int64, st.integers(0, 6), elements=st.integers(-shape[0], shape[0] - 1)))
    rest = [(), (None,), (Ellipsis,)] + [(Ellipsis, slice(None, None, -1))] * (len(shape) > 1)
    return shape, (rows, *draw_from(st.sampled_from(rest)))


@given(shapes_and_indices(), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_indexing(case, seed):
    shape, index = case
    (x,) = draw(seed, shape)
    y, (dx,) = value_and_gradients(lambda x: x[index], [x])
    np.testing.assert_array_equal(y, x[index])
    np.testing.assert_allclose(dx, gather(places(shape)[index], random_like(y), shape), rtol=1e-12, atol=1e-14)


@given(st.integers(1, 9), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6), st.integers(0, 99))
@few
def test_embedding(vocab_size, shape, seed):
    (weight,) = draw(seed, (vocab_size, 3))
    ids = np.random.default_rng(seed).integers(0, vocab_size, shape).astype(np.uint16)
    y, (dweight,) = value_and_gradients(ops.embedding, [weight, ids])
    np.testing.assert_array_equal(y, weight[ids])
    one_hot = np.eye(vocab_size)[ids.ravel()]
    np.testing.assert_allclose(dweight, one_hot.T @ random_like(y).reshape(-1, 3), rtol=1e-10, atol=1e-12)


@st.composite
def shapes_and_axes(draw_from):
    shape = draw_from(SHAPES)
    some = st.lists(st.integers(0, len(shape) - 1), unique=True).map(tuple)
    axis = draw_from(st.none() | st.integers(-len(shape), len(shape) - 1) | some)
    if isinstance(axis, tuple):
        axis = tuple(i - len(shape) if draw_from(st.booleans()) else i for i in axis)
    return shape, axis, draw_from(st.booleans())


@given(shapes_and_axes(), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_reductions(case, seed):
    shape, axis, keepdims = case
    n = math.prod(shape)
    x = 1 + np.random.default_rng(seed).permutation(n).reshape(shape) / n  # no two so close that the largest changes
    over = {"axis": axis, "keepdims": keepdims}
    expected = {
        ops.sum: np.sum(x, **over),
        ops.mean: np.mean(x, **over),
        ops.max: np.max(x, **over),
        ops.min: np.min(x, **over),
        ops.var: np.var(x, **over),
        ops.logsumexp: np.log(np.sum(np.exp(x), **over)),
    }
    for op, y in expected.items():
        np.testing.assert_allclose(op(x, **over).data, y, rtol=1e-10, atol=1e-12)
        gradient_check(lambda x, op=op: op(x, **over), [x], step=1e-5, rtol=1e-5)


@given(shapes_and_axes(), st.integers(0, 99))
@few
def test_ties_share_the_gradient(case, seed):
    shape, axis, keepdims = case
    x = np.random.default_rng(seed).integers(0, 2, shape).astype(float)
    for op, reduce in ((ops.max, np.max), (ops.min, np.min)):
        y, (dx,) = value_and_gradients(lambda x, op=op: op(x, axis=axis, keepdims=keepdims), [x])
        chosen = x == reduce(x, axis=axis, keepdims=True)
        total = random_like(y).reshape(np.sum(x, axis=axis, keepdims=True).shape)
        np.testing.assert_allclose(dx, chosen * total / chosen.sum(axis=axis, keepdims=True))


def attend_by_hand(q: Any, k: Any, v: Any, visible: Any) -> Any:
    """One query at a time, over the keys that it may see and no others."""
    y = np.zeros((*q.shape[:-1], v.shape[-1]))
    for place in np.ndindex(q.shape[:-1]):
        see = visible[place]
        if see.any():
            keys, values = k[place[:-1]][see], v[place[:-1]][see]
            e = np.exp(keys @ q[place] / math.sqrt(q.shape[-1]))
            y[place] = e @ values / e.sum()
    return y


@st.composite
def attention_problems(draw_from):
    B, H, T, D = (draw_from(st.integers(1, 3)) for _ in range(4))
    S = T + draw_from(st.integers(0, 3))
    mask_shape = tuple(draw_from(st.sampled_from([1, n])) for n in (B, H, T, S))[draw_from(st.integers(0, 2)) :]
    dense = draw_from(st.sampled_from([0.0, 0.2, 0.6, 1.0]))
    mask = np.random.default_rng(draw_from(st.integers(0, 99))).random(mask_shape) < dense
    return (B, H, T, D), S, mask, draw_from(st.booleans())


@given(attention_problems(), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_attention_with_any_mask(problem, seed):
    (B, H, T, D), S, mask, causal = problem
    q, k, v = draw(seed, (B, H, T, D), (B, H, S, D), (B, H, S, D))
    visible = np.broadcast_to(mask, (B, H, T, S)) & (np.tri(T, S, S - T, dtype=bool) if causal else True)

    def attend(q: Any, k: Any, v: Any) -> Tensor:
        return ops.attention(q, k, v, mask, causal=causal)

    y, (dq, dk, dv) = value_and_gradients(attend, [q, k, v])
    np.testing.assert_allclose(y, attend_by_hand(q, k, v, visible), rtol=1e-10, atol=1e-12)
    gradient_check(attend, [q, k, v])
    assert not dq[~visible.any(axis=-1)].any()
    assert not dk[~visible.any(axis=-2)].any()
    assert not dv[~visible.any(axis=-2)].any()
    p = ops.attention_weights(q, k, mask, causal=causal).data
    np.testing.assert_allclose(p.sum(axis=-1), visible.any(axis=-1), atol=1e-12)
    assert not p[~visible].any()


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.sampled_from([0.0, 0.5]))
@few
def test_packed_attention_is_attention_of_its_parts(B, T, n_heads, causal, dropout):
    (qkv,) = draw(B + T, (B, T, 3 * n_heads * 2))
    mask = np.random.default_rng(T).random((B, 1, 1, T)) < 0.7
    how = {"causal": causal, "dropout": dropout, "dropout_key": (7, 1)}

    def by_parts(qkv: Tensor) -> Tensor:
        q, k, v = (x.reshape(B, T, n_heads, 2).transpose(0, 2, 1, 3) for x in qkv.split(3, axis=-1))
        return ops.attention(q, k, v, mask, **how).transpose(0, 2, 1, 3).reshape(B, T, -1)

    y, (dqkv,) = value_and_gradients(lambda qkv: ops.packed_attention(qkv, mask, n_heads=n_heads, **how), [qkv])
    expected, (expected_dqkv,) = value_and_gradients(by_parts, [qkv])
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(dqkv, expected_dqkv, rtol=1e-10, atol=1e-12)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.integers(0, 2), st.integers(0, 99))
@few
def test_what_was_split_can_be_joined(lengths, axis, seed):
    shape = [2, 3, 1]
    shape[axis] = sum(lengths)
    (x,) = draw(seed, tuple(shape))
    parts = Tensor(x).split(lengths, axis=axis)
    assert [part.shape[axis] for part in parts] == lengths
    y, (dx,) = value_and_gradients(lambda x: ops.concatenate(*ops.split(x, lengths, axis=axis), axis=axis), [x])
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(dx, random_like(y))


@given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=3), st.tuples(*[st.integers(1, 4)] * 3))
@few
def test_matmul(pair, sizes):
    (left, right), _ = pair
    M, K, N = sizes
    operands = [((*left, M, K), (*right, K, N)), ((K,), (*right, K, N)), ((*left, M, K), (K,)), ((K,), (K,))]
    for shapes in operands:
        a, b = draw(M, *shapes)
        np.testing.assert_allclose((Tensor(a) @ b).data, a @ b)
        gradient_check(ops.matmul, [a, b])
