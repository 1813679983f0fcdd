"""Several documents in a row: each gets the logits, the loss and the gradients that it gets alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanograd import nn, ops
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.tensor import Tensor

V, T = 20, 12
VARIANTS: list[dict[str, Any]] = [
    {"positions": "sinusoidal"},
    {"positions": "learned", "norm_placement": "post"},
    {"positions": "rotary", "rotary_base": 20.0, "activation": "swiglu", "tie_embeddings": False},
    {"positions": "rotary", "rotary_layout": "pairs", "rotary_scaling": "llama3", "rotary_factor": 2.0},
    {"positions": "rotary", "rotary_scaling": "dynamic", "rotary_original_context": T},
    {"positions": "alibi"},
    {"positions": "none"},
]
MODELS = [
    DecoderLM(
        DecoderLMConfig(vocab_size=V, context_length=T, n_layers=2, n_heads=2, d_model=8, init_std=0.5, **variant)
    ).eval()
    for variant in VARIANTS
]
every_model = pytest.mark.parametrize(
    "model", MODELS, ids=lambda model: f"{model.config.positions}-{model.config.rotary_scaling}"
)
LENGTHS = st.lists(st.integers(1, T), min_size=1, max_size=T).filter(lambda lengths: sum(lengths) <= T)


def rows(*lengths: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """ids and documents (B, T): documents of these lengths, then padding, which is a document of its own."""
    ids = np.random.default_rng(seed).integers(V, size=(len(lengths), T))
    documents = np.full(ids.shape, -1)
    for row, sizes in zip(documents, lengths, strict=True):
        row[: sum(sizes)] = np.repeat(np.arange(len(sizes)) + 5, sizes)
    return ids, documents


def alone(ids: np.ndarray, documents: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Where each document lies, as (row, columns)."""
    return [(b, np.flatnonzero(row == name)) for b, row in enumerate(documents) for name in np.unique(row)]


def test_starts_and_positions_by_hand() -> None:
    documents = np.array([[7, 7, 3, 3, 3, 7], [1, 2, 3, 4, 4, 4], [0, 0, 0, 0, 0, 0]])
    starts = nn.document_starts(documents)
    assert starts.tolist() == [[0, 0, 2, 2, 2, 5], [0, 1, 2, 3, 3, 3], [0] * 6]
    assert nn.token_positions(documents, None, starts).tolist() == [
        [0, 1, 0, 1, 2, 0],
        [0, 0, 0, 0, 1, 2],
        [0, 1, 2, 3, 4, 5],
    ]
    mask = np.array([[1, 1, 0, 1, 1, 1], [1, 0, 1, 0, 0, 1], [0, 0, 1, 1, 1, 0]], bool)
    assert nn.token_positions(documents, mask, starts).tolist() == [
        [0, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 2, 2],
    ]


@every_model
@given(first=LENGTHS, second=LENGTHS, seed=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_logits_are_those_of_each_document_alone(
    model: DecoderLM, first: list[int], second: list[int], seed: int
) -> None:
    ids, documents = rows(first, second, seed=seed)
    packed = model(ids, documents=documents).data
    for b, columns in alone(ids, documents):
        np.testing.assert_allclose(packed[b, columns], model(ids[b : b + 1, columns]).data[0], atol=2e-5)


@every_model
@given(lengths=LENGTHS, changed=st.integers(0, T - 1))
@settings(max_examples=30, deadline=None)
def test_a_token_changes_no_bit_of_another_document(model: DecoderLM, lengths: list[int], changed: int) -> None:
    ids, documents = rows(lengths)
    other = ids.copy()
    other[0, changed] = (other[0, changed] + 1) % V
    elsewhere = documents[0] != documents[0, changed]
    before, after = (model(x, documents=documents).data[0] for x in (ids, other))
    np.testing.assert_array_equal(before[elsewhere], after[elsewhere])
    assert (before[changed] != after[changed]).any()


@every_model
@pytest.mark.parametrize("recompute_blocks", [False, True])
def test_loss_and_gradients_are_those_of_the_documents_alone(model: DecoderLM, recompute_blocks: bool) -> None:
    ids, documents = rows([5, 1, 6], [3, 4])
    targets = np.random.default_rng(1).integers(V, size=ids.shape)
    model.recompute_blocks = recompute_blocks
    model.zero_grad()
    loss = model.loss(ids, targets, documents=documents)
    loss.backward()
    together = {name: p.grad.copy() for name, p in model.named_parameters()}
    model.recompute_blocks = False
    model.zero_grad()
    shares = [
        model.loss(ids[b : b + 1, columns], targets[b : b + 1, columns]) * (len(columns) / ids.size)
        for b, columns in alone(ids, documents)
    ]
    total = ops.stack(*shares).sum()
    total.backward()
    assert loss.item() == pytest.approx(total.item(), abs=1e-5)
    for name, p in model.named_parameters():
        np.testing.assert_allclose(together[name], p.grad, atol=1e-5, err_msg=name)


@every_model
def test_documents_beside_padding(model: DecoderLM) -> None:
    """Left padding is part of the first document, and counts no more than it does alone."""
    ids, documents = rows([7, 5])
    mask = np.arange(T)[None] >= 3
    packed = model(ids, mask, documents).data
    np.testing.assert_allclose(packed[0, 3:7], model(ids[:, 3:7]).data[0], atol=2e-5)
    np.testing.assert_allclose(packed[0, 7:], model(ids[:, 7:]).data[0], atol=2e-5)


@pytest.mark.parametrize("documents", [np.zeros((1, T - 1), int), np.zeros((1, T)), np.zeros(T, int)])
def test_documents_that_do_not_fit(documents: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"documents must be integers \(1, 12\)"):
        MODELS[0](np.zeros((1, T), int), documents=documents)


def test_single_heads_know_documents_too() -> None:
    x = np.random.default_rng(0).standard_normal((2, T, 8), np.float32)
    starts = nn.document_starts(rows([5, 7], [3, 4, 2])[1])
    layer = nn.MultiHeadAttention(8, 1, rng=np.random.default_rng(1), std=0.5)
    head = nn.AttentionHead(8, 8, rng=np.random.default_rng(0))
    for i, linear in enumerate((head.query, head.key, head.value)):
        linear.weight.data[...] = layer.qkv.weight.data.reshape(3, 8, 8)[i]
    np.testing.assert_allclose(
        layer(Tensor(x), None, starts).data, layer.out(head(Tensor(x), None, starts)).data, atol=2e-6
    )
    weights = layer.attention_weights(Tensor(x), None, starts)
    assert not weights[0, 0, 5:, :5].any()
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
