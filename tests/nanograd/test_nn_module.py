"""Modules: what the walk over attributes finds, how states travel, and what goes wrong with a clear line."""

import copy

import numpy as np
import pytest

from nanograd import nn
from nanograd.random import DropoutKeys
from nanograd.tensor import Tensor


class Leaf(nn.Module):
    def __init__(self) -> None:
        self.weight = nn.Parameter(np.ones((2, 3), np.float32))
        self.table = nn.Constant(np.arange(3, dtype=np.float32))
        self.count = nn.Buffer(np.zeros(1, np.int64))


class Tree(nn.Module):
    def __init__(self) -> None:
        self.name = "no branch"
        self.plain = Tensor(np.ones(5, np.float32))
        self.bias = nn.Parameter(np.zeros(4, np.float32))
        self.leaves = [Leaf(), Leaf()]
        self.pair = (nn.Parameter(np.zeros(1, np.float32)), [Leaf()])
        self.tied = self.leaves[0].weight
        self.again = self.leaves[1]
        self.none = None


def test_walk_finds_each_parameter_once_in_attribute_order() -> None:
    names = [name for name, _ in Tree().named_parameters()]
    assert names == ["bias", "pair.0", "tied", "leaves.1.weight", "pair.1.0.weight"]


def test_a_tied_parameter_counts_once() -> None:
    assert Tree().n_parameters() == 4 + 1 + 3 * 6


def test_walk_finds_modules_and_buffers_once() -> None:
    tree = Tree()
    assert [name for name, _ in tree.named_modules()] == ["", "leaves.0", "leaves.1", "pair.1.0"]
    assert [name for name, _ in tree.named_buffers()] == [
        f"{leaf}.{name}" for leaf in ("leaves.0", "leaves.1", "pair.1.0") for name in ("table", "count")
    ]


def test_a_module_that_holds_its_parent_is_walked_once() -> None:
    tree = Tree()
    tree.leaves[0].parent = tree
    assert len(list(tree.named_modules())) == 4


def test_state_holds_parameters_and_persistent_buffers() -> None:
    state = Leaf().state_dict()
    assert sorted(state) == ["count", "weight"]
    assert all(type(array) is np.ndarray for array in state.values())


def test_state_round_trip() -> None:
    source, target = Tree(), Tree()
    for i, (_, tensor) in enumerate(source.named_parameters()):
        tensor.data[...] = i + 1
    source.leaves[0].count.data[0] = 7
    arrays = {name: array.copy() for name, array in source.state_dict().items()}
    places = {name: id(p.data) for name, p in target.named_parameters()}
    target.load_state_dict(arrays)
    for name, array in target.state_dict().items():
        np.testing.assert_array_equal(array, arrays[name])
    assert places == {name: id(p.data) for name, p in target.named_parameters()}, "loading must copy, not replace"


def changed(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    state = {"weight": np.full((2, 3), 9, np.float32), "count": np.ones(1, np.int64)} | changes
    return {name: array for name, array in state.items() if array is not None}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (changed(count=None), r"load_state_dict: missing count$"),
        (changed(extra=np.zeros(1)), r"load_state_dict: unexpected extra$"),
        (
            changed(count=None, a=np.zeros(1), b=np.zeros(1), c=np.zeros(1), d=np.zeros(1)),
            "missing count; .* a, b, c and 1 more",
        ),
        (changed(count=np.zeros(2, np.int64)), r"count has shape \(2,\), this model wants \(1,\)"),
        (changed(weight=np.zeros((2, 3), np.int8)), "weight holds int8 numbers, this model wants float32"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(arrays: dict[str, np.ndarray], message: str) -> None:
    leaf = Leaf()
    with pytest.raises(ValueError, match=message):
        leaf.load_state_dict(arrays)
    assert (leaf.weight.data == 1).all()
    assert leaf.count.data[0] == 0


def test_not_strict_loads_what_both_sides_have_but_still_checks_shapes() -> None:
    leaf = Leaf()
    leaf.load_state_dict(changed(count=None, extra=np.zeros(1)), strict=False)
    assert (leaf.weight.data == 9).all()
    with pytest.raises(ValueError, match="shape"):
        leaf.load_state_dict(changed(weight=np.zeros(2, np.float32)), strict=False)


def test_train_and_eval_reach_every_module() -> None:
    tree = Tree()
    assert tree.training
    assert tree.eval() is tree
    assert not any(module.training for _, module in tree.named_modules())
    assert all(module.training for _, module in tree.train().named_modules())


def test_a_deep_copy_shares_nothing_but_keeps_its_ties() -> None:
    tree = Tree()
    twin = copy.deepcopy(tree)
    assert twin.tied is twin.leaves[0].weight
    assert twin.again is twin.leaves[1]
    twin.tied.data[...] = 5
    assert (tree.tied.data == 1).all()
    (twin.tied * 2.0).sum().backward()
    assert tree.tied.grad is None
    assert (twin.leaves[0].weight.grad == 2).all()
    assert sorted(twin.leaves[0].state_dict()) == ["count", "weight"]


def test_zero_grad_keeps_the_arrays() -> None:
    leaf = Leaf()
    leaf.zero_grad()
    assert leaf.weight.grad is None
    gradient = leaf.weight.grad = np.ones((2, 3), np.float32)
    leaf.zero_grad()
    assert leaf.weight.grad is gradient
    assert not gradient.any()


def test_astype_converts_floats_only_and_to_cpu_is_free() -> None:
    leaf = Leaf().astype(np.float64)
    assert (leaf.weight.dtype, leaf.table.dtype, leaf.count.dtype) == (np.float64, np.float64, np.int64)
    assert leaf.weight.requires_grad
    data = leaf.weight.data
    assert leaf.to("cpu").weight.data is data


def test_the_same_seed_draws_the_same_float32_weights() -> None:
    weights = [nn.Linear(3, 4, rng=np.random.default_rng(5), std=0.5).weight.data for _ in range(2)]
    assert weights[0].dtype == np.float32
    assert weights[0].shape == (4, 3)
    np.testing.assert_array_equal(*weights)


def test_init_has_the_asked_for_spread() -> None:
    weight = nn.Linear(200, 300, rng=np.random.default_rng(0), std=0.7).weight.data
    assert abs(weight.std() - 0.7) < 0.01
    assert abs(weight.mean()) < 0.01


@pytest.mark.parametrize("p", [-0.1, 1.0, 2.0])
def test_dropout_refuses_impossible_shares(p: float) -> None:
    with pytest.raises(ValueError, match="Dropout: p must be"):
        nn.Dropout(p, DropoutKeys(0))


def test_dropout_obeys_the_mode_and_draws_a_new_mask_each_time() -> None:
    x, layer = Tensor(np.ones((50, 60), np.float32)), nn.Dropout(0.25, DropoutKeys(3))
    first, second = layer(x).data, layer(x).data
    assert abs((first == 0).mean() - 0.25) < 0.03
    np.testing.assert_allclose(first[first != 0], 1 / 0.75, rtol=1e-6)
    assert (first != second).any()
    assert layer.eval()(x) is x


def test_dropout_is_reproducible_from_its_seed() -> None:
    x = Tensor(np.ones((5, 6), np.float32))
    one, two = nn.Dropout(0.5, DropoutKeys(3)), nn.Dropout(0.5, DropoutKeys(3))
    for _ in range(3):
        np.testing.assert_array_equal(one(x).data, two(x).data)


def test_mlp_refuses_an_unknown_activation() -> None:
    with pytest.raises(ValueError, match="activation 'swish' is unknown; use one of gelu"):
        nn.MLP(2, 4, rng=np.random.default_rng(0), activation="swish")  # type: ignore[arg-type]
