"""Packed and padded documents, and mixtures: each token once an epoch, no look across a border, little padding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd import random
from nanograd.data import NO_TARGET, DataError, TrainingBatches, validation_batches
from nanograd.data.batches import assemble
from nanograd.data.layouts import Packed, Padded
from nanograd.data.mixture import BLOCK, Mixture, shares
from nanograd.data.packing import best_fit, cut_long, find_documents
from nanograd.models import DecoderLM, DecoderLMConfig

END = 0
texts = st.lists(st.integers(0, 5), min_size=2, max_size=200).map(lambda ids: np.array(ids, np.uint16))


def text_of(lengths):
    """Documents of so many tokens, all different but for the END that closes each."""
    bodies = np.split(np.arange(1, sum(lengths) + 1, dtype=np.uint32), np.cumsum(lengths)[:-1])
    return np.concatenate([np.append(body, np.uint32(END)) for body in bodies])


def skewed(n, seed=0):
    return np.random.default_rng(seed).lognormal(4, 1, n).astype(int) + 1


@given(texts)
def test_documents_hold_every_token_once_and_meet_at_their_ends(ids):
    documents = find_documents(ids, END)
    ends = documents.starts + documents.lengths
    assert documents.starts[0] == 0
    assert ends[-1] == len(ids) - 1
    np.testing.assert_array_equal(ends[:-1], documents.starts[1:])
    assert (documents.lengths > 0).all()
    np.testing.assert_array_equal(documents.starts[1:], [i for i in range(1, len(ids) - 1) if ids[i] == END])


@given(texts, st.integers(1, 30))
def test_a_long_document_is_cut_and_loses_nothing(ids, longest):
    documents = find_documents(ids, END)
    parts = cut_long(documents, longest)
    assert parts.lengths.max() <= longest
    np.testing.assert_array_equal(parts.starts + parts.lengths, [*parts.starts[1:], len(ids) - 1])
    assert set(documents.starts) <= set(parts.starts)


def slow_best_fit(lengths, capacity):
    rows = []
    for piece in sorted(range(len(lengths)), key=lambda p: -lengths[p]):
        fitting = [row for row in rows if row[0] >= lengths[piece]]
        if fitting:
            row = min(fitting, key=lambda row: row[0])
        else:
            rows.append(row := [capacity])
        row[0] -= lengths[piece]
        row.append(piece)
    return [row[0] for row in rows], [row[1:] for row in rows]


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(40, 90))
def test_best_fit_leaves_as_little_room_as_looking_at_every_row(lengths, capacity):
    found = best_fit(np.array(lengths, int), capacity)
    room, _ = slow_best_fit(lengths, capacity)
    assert sorted(capacity - sum(lengths[p] for p in row) for row in found) == sorted(room)
    assert sorted(p for row in found for p in row) == list(range(len(lengths)))


@given(texts, st.integers(1, 12), st.integers(0, 3))
def test_an_epoch_of_packed_rows_holds_every_token_once(ids, T, seed):
    layout = Packed(find_documents(ids, END), T, random.generator(seed, "packing"))
    deal = layout.deal(random.generator(seed, "epoch"))
    pieces = [piece for row in deal.order.ravel() for piece in deal.rows.row(row)]
    inputs = np.concatenate([np.arange(start, start + n) for start, n in pieces])
    np.testing.assert_array_equal(np.sort(inputs), np.arange(len(ids) - 1))
    assert all(sum(n for _, n in deal.rows.row(r)) <= T for r in range(len(deal.rows)))


@given(texts, st.integers(1, 12), st.integers(1, 4))
def test_an_epoch_of_padded_batches_holds_no_document_twice_and_misses_less_than_a_batch(ids, T, B):
    documents = find_documents(ids, END)
    parts = len(cut_long(documents, T))
    if parts < B:
        with pytest.raises(DataError, match="too few for a batch"):
            Padded(documents, T, B)
        return
    order = Padded(documents, T, B).deal(random.generator(0, "epoch")).order
    assert order.shape == (parts // B, B)
    assert len(np.unique(order)) == order.size


def test_no_target_lies_across_a_border_and_what_is_left_has_none():
    """Tokens are numbered: within a document each is one more than the last, and END comes first or last."""
    ids = text_of([3, 9, 4, 30, 1])
    batches = TrainingBatches(ids, batch_size=6, context_length=10, seed=1, layout="packed", end_of_text=END)
    x, y, mask, documents = batches.batch(0)
    assert mask is None
    assert x.shape == y.shape == documents.shape == (6, 10)
    real = y != NO_TARGET
    assert ((y == x + 1) | (y == END) | (x == END))[real].all()
    for row in range(6):
        assert (np.diff(real[row].astype(int)) <= 0).all(), "padding is at the end"
        for number in np.unique(documents[row][real[row]]):
            inputs = x[row][(documents[row] == number) & real[row]]
            assert END not in inputs[1:], "a document begins after the END of another"
            assert (np.diff(inputs[inputs != END]) == 1).all()
    assert len(np.unique(documents[0])) == documents[0].max() + 1
    assert sorted(y[real & (y != END)]) == list(range(2, 48)), "all but the first, which nothing comes before"


@pytest.mark.parametrize("T", [64, 256, 1024])
def test_packing_wastes_hardly_anything(T):
    ids = text_of(skewed(3000))
    layout = Packed(find_documents(ids, END), T, random.generator(0, "packing"))
    assert (len(ids) - 1) / (len(layout.rows) * T) > 0.985


@pytest.mark.parametrize("batch_size", [8, 32])
def test_padding_wastes_less_than_a_tenth_on_skewed_lengths(batch_size):
    ids = text_of(skewed(3000))
    batches = TrainingBatches(ids, batch_size=batch_size, context_length=1024, seed=0, layout="padded", end_of_text=END)
    masks = [batches.batch(i).padding_mask for i in range(batches.sources[0].layout.n_groups)]
    assert sum((~mask).sum() for mask in masks) / sum(mask.size for mask in masks) < 0.1
    assert all(mask[:, 0].all() and (np.diff(mask.astype(int), axis=1) <= 0).all() for mask in masks)
    alone = np.sort(skewed(3000))  # the same documents in any order would waste a third and more
    assert (
        1 - alone.mean() / np.random.default_rng(0).permutation(alone)[:2944].reshape(-1, batch_size).max(1).mean()
        > 0.3
    )


@pytest.mark.parametrize("layout", ["windows", "packed", "padded"])
def test_batches_of_every_kind_depend_on_seed_and_number_alone(layout):
    ids = [text_of(skewed(60, seed)) for seed in (1, 2)]

    def make(seed=0):
        return TrainingBatches(
            *ids, batch_size=4, context_length=32, seed=seed, layout=layout, end_of_text=END, weights=(3, 1)
        )

    straight = [one for loader in [make()] for one in (loader.batch(i) for i in range(60))]
    fresh = make()
    for i in (59, 0, 31, 58, 1):
        for one, other in zip(fresh.batch(i), straight[i], strict=True):
            np.testing.assert_array_equal(one, other)
    assert not np.array_equal(make(seed=1).batch(0).targets, straight[0].targets)


def test_batches_count_their_targets():
    ids = text_of(skewed(100))
    for layout in ("windows", "packed", "padded"):
        batch = TrainingBatches(ids, batch_size=4, context_length=32, seed=0, layout=layout, end_of_text=END).batch(3)
        assert batch.n_targets == (batch.targets != NO_TARGET).sum()
        assert set(batch.on("cpu")) == {"ids", "targets"} | {
            name for name in ("padding_mask", "documents") if getattr(batch, name) is not None
        }


def test_packed_validation_holds_every_token_once():
    ids = text_of([5, 50, 3, 8, 11])
    batches = list(validation_batches(ids, batch_size=2, context_length=10, layout="packed", end_of_text=END))
    assert sum(batch.n_targets for batch in batches) == len(ids) - 1
    some = list(
        validation_batches(ids, batch_size=2, context_length=10, max_tokens=30, layout="padded", end_of_text=END)
    )
    np.testing.assert_array_equal(some[0].inputs, batches[0].inputs)
    assert sum(len(batch.inputs) for batch in some) == 3


@given(st.lists(st.floats(0.05, 1), min_size=1, max_size=5), st.integers(0, 3))
def test_a_mixture_has_its_shares_in_every_block_and_reads_each_text_in_order(weights, seed):
    mixture = Mixture(weights, seed=seed)
    places = [mixture.place(number) for number in range(2 * BLOCK)]
    for source, weight in enumerate(weights):
        draws = [draw for where, draw in places if where == source]
        assert draws == list(range(len(draws)))
        first = sum(where == source for where, _ in places[:BLOCK])
        assert abs(first - BLOCK * weight / sum(weights)) <= 1
        assert len(draws) == 2 * first
    assert mixture.place(5) == places[5]


def test_a_mixture_is_mixed():
    sources = np.array([Mixture([1, 1], seed=0).place(number)[0] for number in range(BLOCK)])
    assert 400 < (np.diff(sources) != 0).sum() < 620


@pytest.mark.parametrize("weights", [(1, 0), (1, -1), (1, float("nan")), (1, float("inf")), (5000, 1)])
def test_a_weight_that_makes_no_sense_is_refused(weights):
    with pytest.raises(DataError, match="weight"):
        shares(weights, BLOCK)


def test_each_text_of_a_mixture_has_epochs_of_its_own():
    small, large = np.arange(100, 141, dtype=np.uint16), np.arange(1000, 5000, dtype=np.uint16)
    batches = TrainingBatches(small, large, batch_size=1, context_length=4, seed=0, weights=(1, 1))
    inputs = np.array([batches.batch(i).inputs[0] for i in range(BLOCK)])
    from_large = inputs[inputs[:, 0] >= 1000].ravel()
    assert len(np.unique(from_large)) == from_large.size == 2048
    from_small = inputs[inputs[:, 0] < 1000][: 9 * 50].reshape(50, 9 * 4)  # nine windows an epoch
    assert all(len(np.unique(epoch)) == 36 for epoch in from_small)


def test_too_few_documents_are_said_with_numbers():
    with pytest.raises(DataError, match="2 documents"):
        TrainingBatches(text_of([3, 4]), batch_size=4, context_length=8, seed=0, layout="padded", end_of_text=END)
    with pytest.raises(DataError, match="1 tokens, too few"):
        TrainingBatches(np.array([1]), batch_size=4, context_length=8, seed=0, layout="packed", end_of_text=END)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_packed_padded_and_single_documents_have_the_same_loss(positions):
    """Of the same documents: the sum of all targets' losses, however they lie in rows."""
    config = DecoderLMConfig(
        vocab_size=64, context_length=24, n_layers=2, n_heads=2, d_model=16, positions=positions, init_std=0.2
    )
    model = DecoderLM(config, seed=3).eval()
    lengths = np.random.default_rng(1).integers(1, 60, 40)
    ids = text_of(lengths) % 64
    ids[np.cumsum(lengths + 1) - 1] = END
    ids[(ids == END) & ~np.isin(np.arange(len(ids)), np.cumsum(lengths + 1) - 1)] = 1
    parts = cut_long(find_documents(ids, END), 24)

    def total(batches):
        return sum(model.loss(*batch).item() * batch.n_targets for batch in batches)

    alone = total(assemble([[ids[a : a + n + 1]]], n) for a, n in zip(parts.starts, parts.lengths, strict=True))
    packed = TrainingBatches(ids, batch_size=1, context_length=24, seed=0, layout="packed", end_of_text=END)
    rows = packed.sources[0].layout.n_groups
    assert rows < len(parts)
    assert total(packed.batch(i) for i in range(rows)) == pytest.approx(alone, rel=1e-5)
    padded = TrainingBatches(ids, batch_size=2, context_length=24, seed=0, layout="padded", end_of_text=END)
    groups = padded.sources[0].layout.n_groups
    assert groups * 2 == len(parts)
    assert total(padded.batch(i) for i in range(groups)) == pytest.approx(alone, rel=1e-5)
