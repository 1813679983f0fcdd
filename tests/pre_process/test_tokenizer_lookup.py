"""The three look-ups give one answer: for every token, for misses and for the longest match."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pre_process.tokenizer.lookup import BinarySearchLookup, BruteForceLookup, HashLookup, Lookup
from tests.pre_process import tokenizer_texts as texts

WAYS = (BruteForceLookup, BinarySearchLookup, HashLookup)
vocabularies = st.lists(st.binary(min_size=1, max_size=4), unique=True, max_size=30).map(
    lambda tokens: {token: 7 + i for i, token in enumerate(tokens)}
)


@pytest.mark.parametrize("way", WAYS)
@given(ids=vocabularies, miss=st.binary(max_size=5))
def test_each_way_finds_every_token_and_no_other(way: type[Lookup], ids: dict[bytes, int], miss: bytes) -> None:
    lookup = way(ids)
    assert [lookup.find(token) for token in ids] == list(ids.values())
    assert lookup.find(miss) == ids.get(miss)


@pytest.mark.parametrize("way", WAYS)
@given(ids=vocabularies, data=st.binary(max_size=12), start=st.integers(0, 12))
def test_each_way_finds_the_longest_match(way: type[Lookup], ids: dict[bytes, int], data: bytes, start: int) -> None:
    fitting = [token for token in ids if data.startswith(token, start)]
    longest = max(fitting, key=len, default=None)
    expected = None if longest is None else (ids[longest], start + len(longest))
    assert way(ids).longest_match(data, start) == expected


def test_they_agree_on_a_trained_vocabulary() -> None:
    ids = texts.trained("gpt2").vocabulary.ids
    brute, binary, table = (way(ids) for way in WAYS)
    for token in [*ids, b"", b"thisisatokenthatdoesnotexist", b" th\x00", b"\xff\xff"]:
        assert brute.find(token) == binary.find(token) == table.find(token) == ids.get(token)
    text = "The longest match of all three, naïve or not: 中文".encode()
    for start in range(len(text) + 1):
        assert brute.longest_match(text, start) == binary.longest_match(text, start) == table.longest_match(text, start)
