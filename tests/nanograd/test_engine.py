"""The walk backward: random graphs, shared nodes, views, borrowed gradients, and what an error leaves behind."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanograd import ops
from nanograd.primitive import primitive
from nanograd.tensor import ADDED, PASSED_ON, Tensor


@primitive
def same(xp, x):
    """y = x: the very same array, and the very same dy on the way back: the worst case for borrowed gradients"""
    return x, ()


@same.backward
def _(xp, dy, *, needs):
    LENT.append((dy, dy.copy()))
    return dy


LENT: list[tuple[Any, Any]] = []  # every dy that `same` was shown, and what it held at that time


@primitive
def handed_on(xp, x):
    """y = x; dy goes on to x, with the right to write to it if nobody else has it"""
    return x, ()


@handed_on.backward
def _(xp, dy, *, needs):
    return PASSED_ON


@primitive
def flipped(xp, x):
    """y is a view of x, dx a view of dy"""
    return x[..., ::-1], ()


@flipped.backward
def _(xp, dy, *, needs):
    return dy[..., ::-1]


@primitive
def totals(xp, x):
    """(…, n) → (…, 1); dx is a view with stride 0: writing to one element would write to all"""
    return x.sum(axis=-1, keepdims=True), (x.shape,)


@totals.backward
def _(xp, dy, shape, *, needs):
    return xp.broadcast_to(dy, shape)


PLAIN = {  # what the programs mean, in NumPy: analytic, so a complex step gives slopes exact to rounding
    ops.add: lambda a, b: a + b,
    ops.sub: lambda a, b: a - b,
    ops.mul: lambda a, b: 0.5 * a * b,
    same: lambda a, b: a,
    handed_on: lambda a, b: a,
    flipped: lambda a, b: a[..., ::-1],
    totals: lambda a, b: a.sum(axis=-1, keepdims=True),
}


def apply(op, a, b):
    if op is ops.mul:
        return ops.mul(ops.mul(a, b), 0.5)
    return op(a, b) if op in (ops.add, ops.sub) else op(a)


def apply_plain(op, a, b):
    return PLAIN[op](a, b)


@st.composite
def programs(draw):
    """A straight-line program: step i applies an op to two of the values so far (perhaps twice to the same)."""
    count = draw(st.integers(1, 14))
    return [
        (draw(st.sampled_from(list(PLAIN))), draw(st.integers(0, i + 1)), draw(st.integers(0, i + 1)))
        for i in range(count)
    ]


def run(program, a, b, apply_op):
    values = [a, b]
    for op, i, j in program:
        values.append(apply_op(op, values[i], values[j]))
    return values[-1]


@given(programs(), st.sampled_from([((3,), (3,)), ((2, 3), (3,)), ((2, 1), (1, 3)), ((2, 3), (2, 1))]))
@settings(max_examples=300, deadline=None)
def test_gradients_of_random_programs_are_the_complex_step(program, shapes):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape) for shape in shapes)
    ta, tb = Tensor(a, requires_grad=True), Tensor(b, requires_grad=True)
    y = run(program, ta, tb, apply)
    if not y.requires_grad:
        return
    dy = rng.normal(size=y.shape)
    given_dy = dy.copy()
    LENT.clear()
    y.backward(dy)
    for leaf, other in ((ta, tb), (tb, ta)):
        slope = np.empty(leaf.shape)
        for index in np.ndindex(leaf.shape):
            step = np.zeros(leaf.shape, complex)
            step[index] = 1e-30j
            pair = (leaf.data + step, other.data) if leaf is ta else (other.data, leaf.data + step)
            slope[index] = (run(program, *pair, apply_plain) * dy).sum().imag / 1e-30
        np.testing.assert_allclose(0 * slope if leaf.grad is None else leaf.grad, slope, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(dy, given_dy)
    for lent, before in LENT:
        np.testing.assert_array_equal(lent, before, err_msg="a gradient was written to after it was handed out")


@given(programs())
@settings(max_examples=60, deadline=None)
def test_a_second_backward_adds_to_the_same_array(program):
    a, b = Tensor(np.array([0.3, -0.7]), requires_grad=True), Tensor(np.array([1.1, 0.4]), requires_grad=True)
    y = run(program, a, b, apply)
    y.backward(np.ones(y.shape))
    first = [None if leaf.grad is None else (leaf.grad, leaf.grad.copy()) for leaf in (a, b)]
    y = run(program, a, b, apply)
    y.backward(np.ones(y.shape))
    for leaf, kept in zip((a, b), first, strict=True):
        if kept is not None:
            assert leaf.grad is kept[0]
            np.testing.assert_allclose(leaf.grad, 2 * kept[1], rtol=1e-14)


def test_the_gradient_of_a_leaf_may_be_what_backward_begins_with():
    early = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    product = ops.mul(early, 3.0)
    late = Tensor(np.array([5.0, 6.0]), requires_grad=True)  # newer than `product`, so it gets its gradient first
    late.grad = np.array([1.0, 10.0])
    ops.add(product, late).backward(late.grad)
    assert early.grad.tolist() == [3.0, 30.0]
    assert late.grad.tolist() == [2.0, 20.0]


def test_a_diamond_waits_for_both_sides():
    a = Tensor(np.array([3.0]), requires_grad=True)
    b = ops.add(a, a)
    c = ops.add(b, b)
    c.backward()
    assert a.grad.tolist() == [4.0]


def test_a_deep_and_a_shallow_path_to_the_same_node():
    a = Tensor(np.array([2.0]), requires_grad=True)
    b = ops.mul(a, a)
    deep = b
    for _ in range(50):
        deep = same(deep)
    ops.add(deep, ops.mul(b, 10.0)).backward()
    assert a.grad.tolist() == [44.0]


def test_one_tensor_three_times_in_one_op():
    @primitive
    def product(xp, a, b, c):
        return a * b * c, (a, b, c)

    @product.backward
    def _(xp, dy, a, b, c, *, needs):
        return dy * b * c, dy * a * c, dy * a * b

    x = Tensor(np.array([2.0]), requires_grad=True)
    product(x, x, x).backward()
    assert x.grad.tolist() == [12.0]


def test_a_leaf_made_after_its_first_use_has_no_part_in_it():
    x, w = Tensor(np.ones(2)), Tensor(np.ones(2), requires_grad=True)
    y = ops.mul(x, w)
    x.requires_grad = True
    y.backward(np.ones(2))
    assert x.grad is None
    assert w.grad.tolist() == [1.0, 1.0]


def test_gradients_of_leaves_share_no_memory():
    a, b = Tensor(np.ones(3), requires_grad=True), Tensor(np.ones(3), requires_grad=True)
    dy = np.ones(3)
    y = same(ops.add(a, b))
    y.retain_grad()
    y.backward(dy)
    arrays = [a.grad, b.grad, y.grad, dy]
    assert not any(np.shares_memory(p, q) for i, p in enumerate(arrays) for q in arrays[:i])


def test_backward_on_a_leaf_that_had_a_sum_before_copies_the_gradient_it_is_given():
    x = Tensor(np.ones(2), requires_grad=True)
    ops.add(x, x).backward(np.ones(2))
    x.grad = None
    dy = np.ones(2)
    x.backward(dy)
    x.backward(dy)
    assert dy.tolist() == [1.0, 1.0]
    assert x.grad.tolist() == [2.0, 2.0]


def test_zero_dimensional_gradients_stay_arrays():
    x = Tensor(np.array(3.0), requires_grad=True)
    ops.mul(x, x).backward()
    grad = x.grad
    assert isinstance(grad, np.ndarray)
    ops.mul(x, x).backward()
    assert x.grad is grad
    assert grad == 12.0


def test_a_gradient_from_a_repeated_view_can_be_added_to():
    x = Tensor(np.zeros((1, 2)), requires_grad=True)
    for _ in range(2):
        totals(x).backward(np.ones((1, 1)))
    assert x.grad.tolist() == [[2.0, 2.0]]
    x.grad[0, 0] = 7.0
    assert x.grad.tolist() == [[7.0, 2.0]]


def test_an_input_that_is_not_differentiable_gets_nothing():
    @primitive
    def gate(xp, x, mask):
        return x * mask, (mask,)

    @gate.backward
    def _(xp, dy, mask, *, needs):
        return dy * mask, None

    x, raw = Tensor(np.ones(2), requires_grad=True), Tensor(np.ones(2), requires_grad=True)
    gate(x, ops.mul(raw, 2.0)).backward(np.ones(2))
    assert raw.grad is None
    assert x.grad.tolist() == [2.0, 2.0]


def adding(xp, x):
    return x.copy(), ()


def adding_backward(xp, dy, *, needs, into):
    if into[0] is None:
        return dy.copy()
    OFFERED.append(into[0])
    into[0][...] += dy
    return ADDED


OFFERED: list[Any] = []  # the gradients that `summand` was allowed to write to
summand = primitive(adding)
summand.backward(lambda xp, dy, *, needs: dy)
summand.twin(np, adding, adding_backward, accumulates=True)


@pytest.mark.usefixtures("twins")
def test_a_rule_may_add_to_a_gradient_that_waits_and_is_nobody_elses():
    OFFERED.clear()
    x = Tensor(np.ones(2), requires_grad=True)
    y = ops.mul(x, 1.0)
    one, two, three = summand(y), summand(y), summand(y)
    ops.add(ops.add(three, two), one).backward(np.ones(2))
    assert x.grad.tolist() == [3.0, 3.0]
    assert len(OFFERED) == 1, "the first gradient is borrowed, the second makes a sum, the third may be added to it"


@pytest.mark.usefixtures("twins")
def test_a_gradient_that_was_handed_on_may_be_written_to_unless_somebody_kept_it():
    for keep in (False, True):
        OFFERED.clear()
        x = Tensor(np.ones(2), requires_grad=True)
        y = ops.mul(x, 1.0)
        other = summand(y)
        stream = handed_on(y)
        if keep:
            stream.retain_grad()
        ops.add(ops.add(stream, ops.mul(stream, 2.0)), other).backward(np.ones(2))
        assert x.grad.tolist() == [4.0, 4.0]
        assert len(OFFERED) == (not keep)
        if keep:
            assert stream.grad.tolist() == [3.0, 3.0]


# What goes wrong, and what it leaves behind


def test_a_second_walk_says_so():
    x = Tensor(np.ones(2), requires_grad=True)
    y = ops.mul(x, x)
    y.backward(np.ones(2))
    with pytest.raises(RuntimeError, match="already walked and freed; run the forward again"):
        y.backward(np.ones(2))


def test_walking_into_a_freed_part_changes_nothing():
    x, z = Tensor(np.ones(2), requires_grad=True), Tensor(np.ones(2), requires_grad=True)
    shared = ops.mul(x, x)
    ops.mul(shared, 2.0).backward(np.ones(2))
    second = ops.mul(ops.mul(z, 3.0), shared)
    with pytest.raises(RuntimeError, match="already walked"):
        second.backward(np.ones(2))
    assert z.grad is None
    assert x.grad.tolist() == [4.0, 4.0]
    ops.mul(z, 5.0).backward(np.ones(2))
    assert z.grad.tolist() == [5.0, 5.0]


@pytest.mark.parametrize("error", [ValueError, MemoryError, KeyboardInterrupt])
def test_a_rule_that_fails_leaves_no_half_made_gradient(error):
    @primitive
    def fragile(xp, x):
        return x, ()

    @fragile.backward
    def _(xp, dy, *, needs):
        raise error("as planned")

    x, w = Tensor(np.ones(2), requires_grad=True), Tensor(np.ones(2), requires_grad=True)
    y = ops.add(fragile(x), ops.mul(w, 10.0))  # w has its gradient waiting when `fragile` fails
    with pytest.raises(error, match="as planned"):
        y.backward(np.ones(2))
    assert x.grad is None
    w.grad = None
    ops.mul(ops.mul(x, 3.0), w).backward(np.ones(2))
    assert x.grad.tolist() == [3.0, 3.0]
    assert w.grad.tolist() == [3.0, 3.0]


def test_a_rule_that_answers_for_too_few_inputs_is_reported():
    @primitive
    def careless(xp, a, b):
        return a + b, ()

    @careless.backward
    def _(xp, dy, *, needs):
        return (dy,)

    x = Tensor(np.ones(2), requires_grad=True)
    with pytest.raises(ValueError, match="zip"):
        careless(x, x).backward(np.ones(2))


@pytest.mark.parametrize(
    ("dy", "error", "message"),
    [
        (np.ones(3), ValueError, r"gradient float64 \(3,\) for a tensor float32 \(2, 3\)"),
        (np.ones((2, 3)), ValueError, r"gradient float64 \(2, 3\) for a tensor float32 \(2, 3\)"),
        (1.0, TypeError, "the gradient must be an array on cpu, not 1.0"),
        ([1.0], TypeError, "not a list"),
    ],
)
def test_a_gradient_of_the_wrong_kind_is_refused(dy, error, message):
    y = same(Tensor(np.ones((2, 3), np.float32), requires_grad=True))
    with pytest.raises(error, match=message):
        y.backward(dy)
    y.backward(np.ones((2, 3), np.float32))


def test_inputs_that_need_no_gradient_are_named_to_the_rule():
    asked = []

    @primitive
    def curious(xp, a, b, c):
        return a + b, ()

    @curious.backward
    def _(xp, dy, *, needs):
        asked.append(needs)
        return dy, dy, None

    x, frozen = Tensor(np.ones(2), requires_grad=True), Tensor(np.ones(2))
    curious(frozen, x, None).backward(np.ones(2))
    assert asked == [(False, True, False)]
