"""Learning merges in Python: the textbook example, a trainer that counts everything anew, and Hugging Face's."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pre_process.tokenizer import Tokenizer, TokenizerError
from pre_process.tokenizer.bpe import learn_merges
from pre_process.tokenizer.byte_level import BYTES_IN_ORDER
from pre_process.tokenizer.pre_tokenize import PATTERNS
from pre_process.tokenizer.vocabulary import Vocabulary
from tests.pre_process import tokenizer_texts as texts

SPECIALS = ["<|pad|>", "<|endoftext|>"]


@pytest.fixture(autouse=True)
def in_python(monkeypatch) -> None:
    """The readable trainer; test_tokenizer_training.py holds the compiled one to it."""
    monkeypatch.setenv("NANOGRAD_KERNELS", "0")


def merge(word: Sequence[int], pair: tuple[int, int], new_id: int) -> tuple[int, ...]:
    """`word` with each `pair` replaced by `new_id`, left to right without overlap."""
    merged: list[int] = []
    i = 0
    while i < len(word):
        hit = tuple(word[i : i + 2]) == pair
        merged.append(new_id if hit else word[i])
        i += 2 if hit else 1
    return tuple(merged)


def recount_everything(words: dict[tuple[int, ...], int], n_merges: int, first_id: int, min_frequency: int):
    """The definition of BPE training: count all pairs, merge the best, start again."""
    merges = []
    for new_id in range(first_id, first_id + n_merges):
        counts: Counter[tuple[int, int]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                counts[pair] += count
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        if counts[best] < max(1, min_frequency):
            break
        merges.append(best)
        merged: Counter[tuple[int, ...]] = Counter()
        for word, count in words.items():
            merged[merge(word, best, new_id)] += count
        words = merged
    return merges


def test_the_example_of_the_encyclopaedia() -> None:
    """aaabdaaabac → XdXac in three merges; of the tie Za, ab Wikipedia takes ab, and so does the tie rule."""
    a, b, c, d, z, y, x = range(7)
    word = (a, a, a, b, d, a, a, a, b, a, c)
    merges = learn_merges({word: 1}, n_merges=3, first_id=z)
    assert merges == [(a, a), (a, b), (z, y)]
    for pair, new_id in zip(merges, (z, y, x), strict=True):
        word = merge(word, pair, new_id)
    assert word == (x, d, x, a, c)


def test_runs_merge_from_the_left_without_overlap() -> None:
    """aaa → Za: the pair (Z, a) is left over, (a, Z) never occurs; aaaa → ZZ."""
    assert learn_merges({(0, 0, 0): 1}, n_merges=9, first_id=1) == [(0, 0), (1, 0)]
    assert learn_merges({(0, 0, 0, 0): 1}, n_merges=9, first_id=1) == [(0, 0), (1, 1)]


words = st.dictionaries(
    st.lists(st.integers(0, 3), min_size=1, max_size=12).map(tuple), st.integers(1, 6), min_size=1, max_size=12
)


@given(words, st.integers(0, 40), st.integers(0, 4))
def test_incremental_counts_choose_what_a_full_recount_chooses(table, n_merges, min_frequency) -> None:
    ours = learn_merges(table, n_merges=n_merges, first_id=4, min_frequency=min_frequency)
    assert ours == recount_everything(table, n_merges, 4, min_frequency)


def test_progress_is_told_after_each_merge() -> None:
    seen: list[tuple[int, int]] = []
    learn_merges({(0, 1, 2): 5}, n_merges=7, first_id=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 7), (2, 7)]  # then no pair is left


def hugging_face_merges(documents: Iterable[str], *, vocab_size: int, pattern: str, min_frequency: int) -> list[str]:
    """Train Hugging Face's BPE in the same way, characters where the pattern is naive; merges as "left right"."""
    hf = pytest.importorskip("tokenizers", reason="Hugging Face's tokenizers is not installed: nothing to compare with")
    from tokenizers import pre_tokenizers as pre

    tokenizer = hf.Tokenizer(hf.models.BPE())
    split = pre.Split(hf.Regex(PATTERNS[pattern]), behavior="isolated")
    to_bytes = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = split if pattern == "naive" else pre.Sequence([split, to_bytes])
    alphabet = list(map(chr, range(128))) if pattern == "naive" else pre.ByteLevel.alphabet()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=SPECIALS,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return [" ".join(pair) for pair in model["merges"]]


def our_merges(tokenizer: Tokenizer) -> list[str]:
    from pre_process.tokenizer.hugging_face import written_tokens

    names = written_tokens(tokenizer.vocabulary)
    return [f"{names[left]} {names[right]}" for left, right in tokenizer.vocabulary.merges]


@pytest.mark.parametrize("vocab_size", [300, 1000, 4000])
@pytest.mark.parametrize("name", texts.NAMES)
def test_merges_are_those_of_hugging_face(name: str, vocab_size: int) -> None:
    documents = texts.documents(name)
    theirs = hugging_face_merges(documents, vocab_size=vocab_size, pattern="gpt2", min_frequency=2)
    ours = Tokenizer.train(documents, vocab_size=vocab_size)
    assert our_merges(ours) == theirs
    assert ours.vocab_size == 2 + 256 + len(theirs)


@pytest.mark.parametrize("pattern", ["cl100k", "naive"])
def test_merges_of_the_other_patterns_too(pattern: str) -> None:
    """The news text is ASCII but for a few signs; min_frequency 1 makes each a character, as the other trainer does."""
    documents = texts.documents("news")[:150]
    ours = Tokenizer.train(documents, vocab_size=1500, pattern=pattern, min_frequency=1)  # type: ignore[arg-type]
    n_first = ours.vocab_size - len(ours.vocabulary.merges)
    theirs_size = 1500 - (128 if pattern == "naive" else 0)  # they have no byte tokens beside the characters
    theirs = hugging_face_merges(documents, vocab_size=theirs_size, pattern=pattern, min_frequency=1)
    assert our_merges(ours) == theirs
    assert n_first + len(theirs) == 1500


@settings(max_examples=60)
@given(st.lists(st.text("ab é", max_size=20), min_size=1, max_size=8).filter(lambda docs: any(docs)))
def test_merges_to_exhaustion_on_tiny_alphabets(documents: list[str]) -> None:
    theirs = hugging_face_merges(documents, vocab_size=400, pattern="gpt2", min_frequency=0)
    assert our_merges(Tokenizer.train(documents, vocab_size=400, min_frequency=0)) == theirs


def test_ties_go_to_the_byte_whose_visible_character_is_smaller() -> None:
    """Hugging Face numbers the byte 0x01 behind the letters (it is written as U+0101), so "ab" goes first."""
    tokenizer = Tokenizer.train(["zb zb ab ab \x01\x02 \x01\x02"], vocab_size=261)
    assert [tokenizer.token_bytes(i) for i in (258, 259, 260)] == [b"ab", b"zb", b"\x01\x02"]


def test_ids_are_specials_then_bytes_then_merges() -> None:
    tokenizer = Tokenizer.train(["low low lower"], vocab_size=262)
    assert tokenizer.special_tokens == {"<|pad|>": 0, "<|endoftext|>": 1}
    assert (tokenizer.pad_id, tokenizer.end_of_text_id) == (0, 1)
    assert [tokenizer.token_bytes(i) for i in (2, 3, 35, 257)] == [b"!", b'"', b"B", b"\xad"]
    assert tokenizer.token_bytes(258) == b"lo"
    assert {tokenizer.token_bytes(i) for i in range(2, 258)} == {bytes([byte]) for byte in range(256)}


def test_a_text_without_enough_pairs_gives_a_smaller_vocabulary() -> None:
    assert Tokenizer.train(["ab ab"], vocab_size=5000).vocab_size == 2 + 256 + 1
    assert Tokenizer.train(["ab ab"], vocab_size=5000, min_frequency=3).vocab_size == 2 + 256


def test_the_naive_vocabulary_keeps_frequent_characters_and_leaves_rare_ones_to_bytes() -> None:
    tokenizer = Tokenizer.train(["éé é中 aé"], vocab_size=1000, pattern="naive", min_frequency=2)
    assert len(tokenizer.encode("é")) == 1
    assert [tokenizer.token_bytes(i) for i in tokenizer.encode("中")] == [b"\xe4", b"\xb8", b"\xad"]


def test_bytes_of_rare_characters_are_never_merged() -> None:
    """中 and 丅 begin with the same two bytes, which are frequent together; no file of characters holds half of one."""
    tokenizer = Tokenizer.train(["中丅 ab \ud800\ud800"], vocab_size=1000, pattern="naive", min_frequency=2)
    assert tokenizer.vocabulary.merges == ()
    assert tokenizer.vocab_size == 2 + 256
    assert "中" not in tokenizer.to_json()


def test_the_training_text_is_normalized() -> None:
    tokenizer = Tokenizer.train(["ÀB ÀB"], vocab_size=300, normalizer="ascii", lowercase=True)
    assert tokenizer.token_bytes(258) == b"ab"
    assert tokenizer.decode(tokenizer.encode("ÀB")) == "ab"


def test_a_merge_cannot_start_from_a_special_token() -> None:
    tokens = (*BYTES_IN_ORDER, b"ab", b"ab!")
    with pytest.raises(TokenizerError, match="merge 0 joins b'ab' and b'!' to no token"):
        Vocabulary(tokens, ((256, tokens.index(b"!")),), {"ab": 256}, "byte")


def test_training_reads_a_generator_once_and_document_by_document() -> None:
    """A piece never crosses a document: "ab" + "ab" has no pair b a."""
    tokenizer = Tokenizer.train((text for text in ["ab", "ab", "ab"]), vocab_size=300)
    assert [tokenizer.token_bytes(i) for i in range(258, tokenizer.vocab_size)] == [b"ab"]


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        ([], {}, "the training text is empty"),
        (["", ""], {}, "the training text is empty"),
        ("one string", {}, "texts is one string"),
        ([b"bytes"], {}, "texts holds a bytes"),
        (["a"], {"vocab_size": 257}, "vocab_size 257 is too small: 2 special tokens and 256 bytes need 258"),
        (["ßß"], {"vocab_size": 258, "pattern": "naive"}, "2 special tokens and 257 characters need 259"),
        (["a"], {"special_tokens": ["<|x|>", "<|x|>"]}, "given twice"),
        (["a"], {"special_tokens": ["pad"]}, "'pad' looks like ordinary text"),
        (["a"], {"special_tokens": [""]}, "'' looks like ordinary text"),
        (["a"], {"special_tokens": "<|x|>"}, "special_tokens is one string"),
        (["a"], {"special_tokens": ["<|x|>\ud800"]}, "lone surrogate"),
        (["a"], {"pattern": "gpt5"}, "unknown pattern 'gpt5': choose one of gpt2, cl100k, cl100k_tiktoken, naive"),
        (["a"], {"normalizer": "nfd"}, "unknown normalizer 'nfd': choose one of none, nfc, nfkc, ascii"),
    ],
)
def test_what_cannot_be_trained_says_so_in_one_line(documents, options, message: str) -> None:
    assert message in texts.refusal(lambda: Tokenizer.train(documents, **{"vocab_size": 300, **options}))


def test_a_tokenizer_without_a_padding_token_says_so() -> None:
    tokenizer = Tokenizer.train(["a"], vocab_size=300, special_tokens=[])
    with pytest.raises(TokenizerError, match="no padding token"):
        _ = tokenizer.pad_id
    with pytest.raises(TokenizerError, match="no end-of-text token"):
        _ = tokenizer.end_of_text_id
