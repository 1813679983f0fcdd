"""The compiled half of encoding and decoding, part by part: each gives what the Python half gives."""

import functools
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pre_process.tokenizer.byte_level import BYTES_IN_ORDER
from pre_process.tokenizer.decoder import Decoder
from pre_process.tokenizer.encoder import Encoder, apply_merges
from pre_process.tokenizer.kernels import apply_merges as joining
from pre_process.tokenizer.kernels import compiled as compiled_module
from pre_process.tokenizer.kernels import piece_cache, tables
from pre_process.tokenizer.kernels.compiled import CompiledDecoder, CompiledEncoder
from pre_process.tokenizer.kernels.heap_merges import join_by_heap
from pre_process.tokenizer.kernels.keys import piece_key
from pre_process.tokenizer.kernels.support import kernel, padded
from pre_process.tokenizer.kernels.tables import fits, merges_of, trie_of
from pre_process.tokenizer.kernels.trie import NONE, longest_match
from pre_process.tokenizer.lookup import BruteForceLookup
from pre_process.tokenizer.vocabulary import TokenizerError, Vocabulary
from tests.pre_process import tokenizer_texts as texts

LONG_PIECE = 3000  # bytes: beyond FEW and MANY


@kernel
def few(data: np.ndarray, end: int, merges: joining.Merges, out: np.ndarray) -> int:
    return joining.join_few(data, 0, end, merges, out, np.empty(end, np.int32))


@kernel
def many(data: np.ndarray, end: int, merges: joining.Merges, out: np.ndarray) -> int:
    return joining.join_many(data, 0, end, merges, out, 0)


@kernel
def by_heap(data: np.ndarray, end: int, merges: joining.Merges, out: np.ndarray) -> int:
    return join_by_heap(data, 0, end, merges, out, 0)


def joined(way: Callable[..., int], text: bytes, merges: joining.Merges) -> list[int]:
    out = np.empty(len(text), np.int32)
    return out[: way(padded(text), len(text), merges, out)].tolist()


@st.composite
def vocabularies(draw: st.DrawFn, *, shuffled: bool) -> Vocabulary:
    """Merges over three letters. A token may be made in several ways; shuffled, it may be made before its parts."""
    tokens = list(BYTES_IN_ORDER)
    letters = [tokens.index(letter) for letter in (b"a", b"b", b"c")]
    pairs = list[tuple[int, int]]()
    for _ in range(draw(st.integers(1, 14))):
        left, right = draw(st.sampled_from(letters)), draw(st.sampled_from(letters))
        token = tokens[left] + tokens[right]
        if (left, right) not in pairs and len(token) < 9:
            pairs.append((left, right))
            if token not in tokens:
                tokens.append(token)
            letters.append(tokens.index(token))
    if shuffled:
        pairs = draw(st.permutations(pairs))
    return Vocabulary(tuple(tokens), tuple(pairs), {}, "byte")


abc = st.text("abc", min_size=1, max_size=40).map(str.encode)


@given(vocabularies(shuffled=True), abc)
def test_all_ways_to_join_give_the_definition_whatever_the_merges(vocabulary: Vocabulary, text: bytes) -> None:
    expected = apply_merges(vocabulary.byte_ids(text), vocabulary.ranks)
    merges = merges_of(vocabulary)
    for way in (few, by_heap, many) if merges.in_order else (few, by_heap):
        assert joined(way, text, merges) == expected


@given(vocabularies(shuffled=False), abc)
def test_a_list_for_each_rank_gives_the_definition_wherever_it_is_used(vocabulary: Vocabulary, text: bytes) -> None:
    """Also where tokens can be made in several ways."""
    merges = merges_of(vocabulary)
    assume(merges.in_order)
    assert joined(many, text, merges) == apply_merges(vocabulary.byte_ids(text), vocabulary.ranks)


def test_trained_vocabularies_are_in_order_and_shuffled_ones_are_not() -> None:
    for pattern in ("gpt2", "naive"):
        assert merges_of(texts.trained(pattern).vocabulary).in_order
    merges = texts.trained("gpt2").vocabulary.merges
    backwards = Vocabulary(texts.trained("gpt2").vocabulary.tokens, merges[::-1], {}, "byte")
    assert not merges_of(backwards).in_order


def test_a_second_way_to_make_a_token_does_not_cost_the_order() -> None:
    """abc is made of a and bc. It could be made of ab and c, which is made later; but those two never meet."""
    tokens = (*BYTES_IN_ORDER, b"bc", b"abc", b"ab")
    a, b, c = (tokens.index(letter) for letter in (b"a", b"b", b"c"))
    two_ways = Vocabulary(tokens, ((b, c), (a, 256), (258, c), (a, b)), {}, "byte")
    assert merges_of(two_ways).in_order
    one_way = Vocabulary(tokens, ((258, c), (a, b)), {}, "byte")
    assert not merges_of(one_way).in_order


@pytest.mark.parametrize("pattern", ["gpt2", "naive"])
@given(text=st.text("aeginrst é中\ud800", min_size=1, max_size=300))
def test_all_ways_to_join_agree_on_trained_merges(pattern: str, text: str) -> None:
    vocabulary, data = texts.trained(pattern).vocabulary, text.encode("utf-8", "surrogatepass")
    expected = apply_merges(vocabulary.symbols(text), vocabulary.ranks)
    for way in (few, by_heap, many):
        assert joined(way, data, merges_of(vocabulary)) == expected


# One longest match


@kernel
def match(data: np.ndarray, start: int, end: int, trie: Any) -> tuple[Any, int]:
    return longest_match(data, start, end, trie)


@given(vocabularies(shuffled=False), st.text("abcx", max_size=12).map(str.encode), st.integers(0, 12))
def test_the_trie_finds_the_longest_match(vocabulary: Vocabulary, data: bytes, start: int) -> None:
    start = min(start, len(data))
    found, end = match(padded(data), start, len(data), trie_of(vocabulary.ids))
    expected = BruteForceLookup(vocabulary.ids).longest_match(data, start)
    assert (None if found == NONE else (found, end)) == expected


# The cache


@kernel
def find(cache: piece_cache.PieceCache, data: np.ndarray, size: int) -> int:
    low, high = piece_key(data, 0, size)
    return piece_cache.find(cache, low, high, data, 0, size)


@kernel
def remember(cache: piece_cache.PieceCache, data: np.ndarray, size: int, ids: np.ndarray) -> int:
    low, high = piece_key(data, 0, size)
    slot = piece_cache.find(cache, low, high, data, 0, size)
    piece_cache.remember(cache, slot, low, high, data, 0, size, ids, 0, len(ids))
    return slot


@kernel
def recall(cache: piece_cache.PieceCache, slot: int, out: np.ndarray) -> int:
    return piece_cache.recall(cache, slot, out, 0)


pieces = st.dictionaries(
    st.binary(min_size=1, max_size=piece_cache.LONGEST),
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=6),
    max_size=40,
)


@given(pieces)
def test_the_cache_gives_back_what_it_was_given(remembered: dict[bytes, list[int]]) -> None:
    cache, out = piece_cache.new_cache(64), np.empty(80, np.int32)
    for piece, ids in remembered.items():
        remember(cache, padded(piece), len(piece), np.array(ids, np.int32))
    for piece, ids in remembered.items():
        slot = find(cache, padded(piece), len(piece))
        assert out[: recall(cache, slot, out)].tolist() == ids


def test_a_full_cache_is_emptied_and_never_grows() -> None:
    cache = piece_cache.new_cache(64)
    for i in range(200):
        piece = f"{i:0{1 + i % 60}}".encode()
        remember(cache, padded(piece), len(piece), np.arange(1 + i % 60, dtype=np.int32))
        assert cache.used[0] < 48
        assert np.count_nonzero(cache.slots[:, 1]) == cache.used[0]
        assert cache.used[1] <= len(cache.ids)
        assert cache.used[2] <= len(cache.text)


def test_equal_hashes_of_different_pieces_are_told_apart() -> None:
    """The bytes behind a hash are compared: here they were changed after it was taken."""
    cache, piece = piece_cache.new_cache(64), b"a piece of thirty bytes or so.."
    slot = remember(cache, padded(piece), len(piece), np.array([7], np.int32))
    assert find(cache, padded(piece), len(piece)) == slot
    cache.text[len(piece) - 1] ^= 1
    assert find(cache, padded(piece), len(piece)) != slot


# Whole texts


nasty = st.text(st.characters()) | st.text("the of\n'é<|>pad \t\r\u3000中1234.,-ſ", max_size=200)


@functools.cache
def encoders(pattern: Any, method: Any) -> tuple[Encoder, CompiledEncoder]:
    """Both ways; the cache of the compiled one is so small that it overflows all the time."""
    vocabulary = texts.trained(pattern).vocabulary
    compiled = CompiledEncoder(vocabulary, pattern, greedy=method == "greedy")
    compiled._idle[:] = [piece_cache.new_cache(64)]
    return Encoder(vocabulary, pattern, method), compiled


def in_python(call: Callable[[], Any]) -> Any:
    with mock.patch.dict(os.environ, NANOGRAD_KERNELS="0"):
        return call()


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "cl100k_tiktoken", "naive"])
@pytest.mark.parametrize("method", ["merges", "greedy"])
@given(batch=st.lists(nasty, max_size=4))
def test_both_ways_to_encode_agree(pattern: str, method: str, batch: list[str]) -> None:
    encoder, compiled = encoders(pattern, method)
    expected, found = in_python(lambda: encoder.encode(batch)), compiled.encode(batch)
    assert found.ids.dtype == expected.ids.dtype == np.int32
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.starts.tolist() == expected.starts.tolist()


@given(vocabularies(shuffled=True), st.booleans(), st.text("abc ", max_size=300))
def test_both_ways_agree_on_merges_that_no_training_makes(vocabulary: Vocabulary, whole: bool, text: str) -> None:
    vocabulary = replace(vocabulary, whole_pieces=whole)
    expected = in_python(lambda: Encoder(vocabulary, "gpt2", "merges").encode([text]))
    assert CompiledEncoder(vocabulary, "gpt2", greedy=False).encode([text]).ids.tolist() == expected.ids.tolist()


LONG = {
    "one letter": "a" * 5000,
    "spaces": " " * 5000,
    "newlines": "\n" * 5000,
    "signs": "=" * 5000,
    "digits": "7" * 5000,
    "letters": "".join(random.Random(1).choices("aeinorst", k=5000)),
    "Latin-1": "".join(random.Random(2).choices("éèàüößñç", k=2500)),
    "Han": "".join(map(chr, random.Random(3).choices(range(0x4E00, 0x9FFF), k=2000))),
    "no spaces": "".join("".join(texts.documents("news")[:4]).split()),
    "a few hundred letters": "".join(random.Random(4).choices("aeinorst", k=300)),
}


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "naive"])
@pytest.mark.parametrize("name", LONG)
def test_long_pieces_of_all_kinds(pattern: str, name: str) -> None:
    encoder, compiled = encoders(pattern, "merges")
    expected = in_python(lambda: encoder.encode([LONG[name]]))
    assert compiled.encode([LONG[name]]).ids.tolist() == expected.ids.tolist()


def test_the_places_of_long_pieces_are_not_limited_by_the_scanner() -> None:
    """More pieces than are cut out at a time, in several documents, some of them empty."""
    batch = ["", "a, b " * 3000, "", "x" * LONG_PIECE, "one two " * 5000]
    encoder, compiled = encoders("gpt2", "merges")
    expected = in_python(lambda: encoder.encode(batch))
    for threads in (1, 2):
        found = compiled.encode(batch, threads=threads)
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.starts.tolist() == expected.starts.tolist()


def test_blocks_of_documents_are_put_together_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_module, "BLOCK", 50)
    documents = [document[: 7 * i] for i, document in enumerate(texts.documents("news")[:60])]
    _, compiled = encoders("gpt2", "merges")
    found = compiled.encode(documents, threads=3)
    rows = [found.ids[start:end].tolist() for start, end in pairwise(found.starts)]
    assert rows == [compiled.encode([document]).ids.tolist() for document in documents]


def test_threads_may_share_an_encoder() -> None:
    encoder = CompiledEncoder(texts.trained("gpt2").vocabulary, "gpt2", greedy=False)
    halves = [" ".join(texts.documents("news")[:150]), " ".join(texts.documents("news")[150:])]
    expected = [encoders("gpt2", "merges")[1].encode([half]).ids.tolist() for half in halves]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: encoder.encode([halves[i % 2]]).ids.tolist(), range(24)))
    assert found == [expected[i % 2] for i in range(24)]
    assert len(encoder._idle) <= 4


def test_a_ruled_line_as_a_token_is_no_reason_to_do_without() -> None:
    """A vocabulary for a text with long lines of "=" has tokens of thousands of bytes; it stays a quick one."""
    lengths = [1 << e for e in range(1, 13)]
    tokens = (*BYTES_IN_ORDER, *(b"=" * n for n in lengths))
    first = tokens.index(b"=")
    vocabulary = Vocabulary(tokens, ((first, first), *((255 + e, 255 + e) for e in range(1, 12))), {}, "byte")
    assert fits(vocabulary)
    assert merges_of(vocabulary).in_order
    encoder = CompiledEncoder(vocabulary, "gpt2", greedy=False)
    assert encoder.encode(["=" * 5001]).ids.tolist() == apply_merges([first] * 5001, vocabulary.ranks)
    assert not fits(Vocabulary((*tokens, b"=" * (1 << 15)), (), {}, "byte"))


def test_what_does_not_fit_into_the_tables_is_left_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = texts.trained("gpt2").vocabulary
    assert fits(vocabulary)
    monkeypatch.setattr(tables, "MOST_TOKENS", 600)
    assert not fits(vocabulary)
    monkeypatch.setattr(compiled_module, "encode_documents", None)
    assert Encoder(vocabulary, "gpt2", "merges").encode(["the " * 100_000]).ids.tolist()[:2]


def test_a_text_that_is_too_long_for_the_kernels_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_module, "LONGEST_TEXT", 99)
    with pytest.raises(TokenizerError, match="a text of 100 bytes: encode it in parts"):
        encoders("gpt2", "merges")[1].encode(["a", "é" * 50])


# Decoding


@given(st.lists(st.integers(0, 699), max_size=50), st.booleans())
def test_decoding_joins_the_bytes_of_tokens(ids: list[int], skip: bool) -> None:
    vocabulary = texts.trained("gpt2").vocabulary
    silent = vocabulary.silent_ids if skip else frozenset[int]()
    expected = b"".join(vocabulary.tokens[i] for i in ids if i not in silent)
    assert bytes(CompiledDecoder(vocabulary.tokens, silent).decode(np.array(ids, np.uint16))) == expected


@pytest.mark.parametrize("length", [1, 15, 16, 17, 31, 32, 33, 1000])
def test_tokens_of_any_length_are_copied_whole(length: int) -> None:
    tokens = [b"ab", bytes(range(65, 90)) * 40, b"c"]
    tokens[1] = tokens[1][:length]
    found = CompiledDecoder(tokens, ()).decode(np.array([1, 0, 1, 2, 1]))
    assert bytes(found) == tokens[1] + b"ab" + tokens[1] + b"c" + tokens[1]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32, np.int64, np.uint64])
def test_ids_of_any_integer_type_are_decoded(dtype: Any) -> None:
    vocabulary = texts.trained("gpt2").vocabulary
    ids = np.arange(700 if dtype != np.uint8 else 255).astype(dtype)
    expected = in_python(lambda: Decoder(vocabulary, frozenset()).decode(ids))
    CompiledDecoder(vocabulary.tokens, ())  # from here on compiled code is at hand
    for same in (ids, ids[::-1][::-1], np.concatenate([ids, ids])[: len(ids)]):
        assert Decoder(vocabulary, frozenset()).decode(same) == expected
