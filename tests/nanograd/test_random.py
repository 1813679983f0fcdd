"""Chance: Philox against its published vectors and against itself in plain integers, streams, keep rates."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanograd import random
from nanograd.ops.dropout import kept
from nanograd.random import DropoutKeys, generator, philox_4x32, random_words

ONES = 0xFFFFFFFF
KNOWN_ANSWERS = [  # file kat_vectors of Random123, lines "philox4x32 10": counter, key, result
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (  # the digits of π
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def slow_philox(counter, key):
    """The ten rounds of the paper's section 4, on Python's integers."""
    words, (k0, k1) = list(counter), key
    for _ in range(10):
        high_0, low_0 = divmod(0xD2511F53 * words[0], 2**32)
        high_1, low_1 = divmod(0xCD9E8D57 * words[2], 2**32)
        words = [high_1 ^ words[1] ^ k0, low_1, high_0 ^ words[3] ^ k1, low_0]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return tuple(words)


def slow_words(size, seed, call):
    key = (seed % 2**32, seed // 2**32 % 2**32)
    blocks = ((i % 2**32, i // 2**32, call % 2**32, call // 2**32 % 2**32) for i in range((size + 3) // 4))
    return [word for block in blocks for word in slow_philox(block, key)][:size]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_philox_gives_the_published_words(counter, key, expected):
    assert slow_philox(counter, key) == expected
    in_arrays = philox_4x32(tuple(np.array([word], np.uint64) for word in counter), key)
    assert tuple(int(word[0]) for word in in_arrays) == expected


seeds = st.integers(-(2**63), 2**64)


@given(st.lists(st.integers(0, 5), max_size=3), seeds, seeds)
@example(shape=[3, 4], seed=2**32 - 1, call=2**32)
@settings(max_examples=100, deadline=None)
def test_random_words_are_philox_of_seed_call_and_place(shape, seed, call):
    words = random_words(np, tuple(shape), (seed, call))
    assert words.dtype == np.uint32
    assert words.shape == tuple(shape)
    assert words.reshape(-1).tolist() == slow_words(words.size, seed, call)


@given(st.integers(1, 5))
@settings(deadline=None)
def test_words_do_not_depend_on_how_many_are_made_at_a_time(step):
    expected = random_words(np, (5, 7), (3, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "CPU_BLOCKS", step)
        np.testing.assert_array_equal(random_words(np, (5, 7), (3, 4)), expected)


def test_a_place_has_its_word_whatever_the_shape():
    row = random_words(np, (60_000,), (1, 2))
    np.testing.assert_array_equal(random_words(np, (6, 1000), (1, 2)).reshape(-1), row[:6000])
    assert row.max() > 0.999 * 2**32


def test_keys_lead_to_words_without_relation():
    """Neighbouring seeds and calls: words equal by chance only, bits equal half of the time."""
    n = 20_000
    streams = [random_words(np, (n,), key) for key in [(0, 1), (1, 0), (0, 2), (1, 1), (0, 1 + 2**32), (2**32, 1)]]
    for i, a in enumerate(streams):
        for b in streams[:i]:
            assert (a == b).sum() <= 2
            share = np.bitwise_count(a ^ b).sum() / (32 * n)
            assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(32 * n)


def test_every_bit_is_a_fair_coin():
    words = random_words(np, (40_000,), (2024, 7))
    for bit in range(32):
        heads = ((words >> np.uint32(bit)) & 1).mean()
        assert abs(heads - 0.5) < 5 * 0.5 / np.sqrt(words.size)


@pytest.mark.parametrize("p", [0.0, 1e-3, 0.1, 0.5, 0.9, 1.0])
def test_the_keep_rate_is_one_minus_p(p):
    n = 200_000
    keep = kept(np, (n,), p, (5, 6))
    rate = 1.0 if keep is None else keep.mean()
    assert abs(rate - (1 - p)) <= 5 * np.sqrt(p * (1 - p) / n)


def test_neighbours_in_a_mask_are_independent():
    keep = (random_words(np, (512, 512), (8, 9)) >= int(0.3 * 2**32)) - 0.7
    for axis in (0, 1):
        correlation = (keep * np.roll(keep, 1, axis)).mean() / 0.21
        assert abs(correlation) < 5 / 512


def test_each_call_gets_a_key_of_its_own():
    keys = DropoutKeys(7)
    handed_out = [keys.next() for _ in range(5)]
    assert len(set(handed_out)) == 5
    resumed = DropoutKeys(7)
    resumed.calls = 3
    assert resumed.next() == handed_out[3]
    assert DropoutKeys(8).next() not in handed_out


def test_streams_are_reproducible_and_apart():
    names = ["init", "data", "sample", "atad"]  # the last is "data" backwards: length and letters alone don't matter
    draws = {(seed, name): generator(seed, name).random(1000) for seed in (0, 1) for name in names}
    np.testing.assert_array_equal(generator(1, "data").random(1000), draws[1, "data"])
    flat = list(draws.values())
    for i, a in enumerate(flat):
        for b in flat[:i]:
            assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(1000)


def test_a_stream_is_the_same_on_every_machine():
    """Numbers written down once: a change of NumPy or of ours that moves them breaks every seed people noted."""
    assert generator(1337, "init").integers(0, 1000, 5).tolist() == [496, 988, 887, 884, 107]
