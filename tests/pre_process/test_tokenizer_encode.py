"""Text → ids → text: nothing is lost, merges come in their order, specials only on request, batches with masks."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pre_process.tokenizer import StreamDecoder, Tokenizer, TokenizerError, encoder
from pre_process.tokenizer.encoder import Ranks, apply_merges
from pre_process.tokenizer.inspection import bytes_per_token, show, token_info
from tests.pre_process import tokenizer_texts as texts

anything = st.text(st.characters())  # lone surrogates included
patterns = pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "naive"])
methods = pytest.mark.parametrize("method", ["merges", "greedy"])


@patterns
@methods
@given(text=anything | st.text("the of\n'é<|>padendoftext") | st.just("<|pad|><|endoftext|>"))
def test_every_text_comes_back(pattern: str, method: str, text: str) -> None:
    tokenizer = texts.trained(pattern)
    ids = tokenizer.encode(text, method=method)  # type: ignore[arg-type]
    assert ids.dtype == np.int32
    assert ids.ndim == 1
    assert not {tokenizer.pad_id, tokenizer.end_of_text_id} & set(ids.tolist())
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode("utf-8", "surrogatepass")


@patterns
@methods
def test_real_text_comes_back(pattern: str, method: str) -> None:
    tokenizer, text = texts.trained(pattern), "\n".join(texts.documents("manual"))[:200_000]
    ids = tokenizer.encode(text, method=method)  # type: ignore[arg-type]
    assert tokenizer.decode(ids) == text
    assert len(ids) < len(text) / 1.5


def look_through_all_pairs(symbols: list[int], ranks: Ranks) -> list[int]:
    """The definition: join the leftmost pair of lowest rank until no pair has a rank."""
    symbols, never = list(symbols), (len(ranks), 0)
    while len(symbols) > 1:
        candidates = [ranks.get(pair, never) for pair in pairwise(symbols)]
        best = min(candidates)
        if best == never:
            break
        i = candidates.index(best)
        symbols[i : i + 2] = [best[1]]
    return symbols


@given(st.text("aeginrst ", max_size=200))
def test_merges_follow_the_definition(text: str) -> None:
    """Without pre-tokenizing, so that pieces are long."""
    vocabulary = texts.trained("gpt2").vocabulary
    symbols = vocabulary.symbols(text)
    assert apply_merges(symbols, vocabulary.ranks) == look_through_all_pairs(symbols, vocabulary.ranks)


tangled = st.dictionaries(
    st.tuples(st.integers(0, 4), st.integers(0, 4)), st.integers(2, 4), min_size=1, max_size=12
).map(lambda table: {pair: (rank, made) for rank, (pair, made) in enumerate(table.items())})


@given(st.lists(st.integers(0, 4), max_size=30), tangled)
def test_merges_follow_the_definition_even_for_ranks_that_no_training_makes(symbols: list[int], ranks: Ranks) -> None:
    assert apply_merges(symbols, ranks) == look_through_all_pairs(symbols, ranks)


def test_merges_replay_the_training_and_greedy_takes_the_longest() -> None:
    """bc is learnt before ab: "abc" is a|bc by merges and ab|c by greed."""
    tokenizer = Tokenizer.train(["bc bc bc ab ab"], vocab_size=260, special_tokens=["<|pad|>", "<|endoftext|>"])
    assert [tokenizer.token_bytes(i) for i in tokenizer.encode("abc")] == [b"a", b"bc"]
    assert [tokenizer.token_bytes(i) for i in tokenizer.encode("abc", method="greedy")] == [b"ab", b"c"]


def test_the_cache_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(texts.documents("news")[200:210])
    expected = texts.trained("gpt2").encode(text)
    monkeypatch.setattr(encoder, "CACHE_SIZE", 20)
    small = encoder.Encoder(texts.trained("gpt2").vocabulary, "gpt2", "merges")
    assert small.encode([text]).ids.tolist() == expected.tolist()
    assert len(small._cache) <= 20


def test_special_tokens_in_the_text_are_text_unless_allowed() -> None:
    tokenizer, text = texts.trained("gpt2"), "one<|endoftext|>two<|pad|>"
    plain = tokenizer.encode(text)
    assert not {0, 1} & set(plain.tolist())
    assert tokenizer.decode(plain) == text

    one_allowed = tokenizer.encode(text, allowed_special=["<|endoftext|>"]).tolist()
    assert (one_allowed.count(0), one_allowed.count(1)) == (0, 1)
    assert tokenizer.decode(one_allowed) == "onetwo<|pad|>"
    assert tokenizer.decode(one_allowed, skip_special=False) == text

    all_allowed = tokenizer.encode(text, allowed_special="all").tolist()
    assert all_allowed == [*tokenizer.encode("one"), 1, *tokenizer.encode("two"), 0]


def test_of_two_special_tokens_the_longer_wins() -> None:
    tokenizer = Tokenizer.train(["a"], vocab_size=300, special_tokens=["<|a", "<|a|>", "<|a|>b"])
    assert tokenizer.encode("<|a|>b<|a|><|a", allowed_special="all").tolist() == [2, 1, 0]


@pytest.mark.parametrize("name", ["<|endoftext|>", "<|nothing|>"])
def test_a_wrong_allowed_special_says_so(name: str) -> None:
    allowed = [name] if "nothing" in name else name
    with pytest.raises(TokenizerError, match=r"no special token|is one string"):
        texts.trained("gpt2").encode("a", allowed_special=allowed)


@given(st.lists(st.integers(0, 699), max_size=20), st.booleans())
def test_a_stream_gives_the_text_of_one_call(ids: list[int], skip_special: bool) -> None:
    """Random ids: half characters everywhere, as an untrained model writes them."""
    tokenizer = texts.trained("gpt2")
    stream = tokenizer.stream_decoder(skip_special=skip_special)
    parts = [stream.feed(i) for i in ids]
    assert "".join(parts) + stream.finish() == tokenizer.decode(ids, skip_special=skip_special)


@given(anything)
def test_a_stream_of_whole_text_never_shows_half_a_character(text: str) -> None:
    tokenizer = texts.trained("gpt2")
    stream: StreamDecoder = tokenizer.stream_decoder()
    shown = ""
    for token_id in tokenizer.encode(text):
        shown += stream.feed(int(token_id))
        assert text.startswith(shown)
    assert shown == text
    assert stream.finish() == ""


def test_broken_utf8_becomes_the_replacement_character() -> None:
    tokenizer = texts.trained("gpt2")
    ids = tokenizer.vocabulary.byte_ids("中".encode()[:2]) + tokenizer.vocabulary.byte_ids(b"a\xff")
    assert tokenizer.decode(ids) == "\ufffda\ufffd"
    stream = tokenizer.stream_decoder()
    assert [stream.feed(i) for i in ids] == ["", "", "\ufffda", "\ufffd"]
    assert stream.feed(ids[0]) == ""
    assert (stream.finish(), stream.finish()) == ("\ufffd", "")


@pytest.mark.parametrize("wrong", [[700], [-1], [0.5], [[1, 2]], 3, ["a"], [True], [2**70], np.zeros((0, 2))])
def test_ids_that_do_not_exist_are_refused(wrong) -> None:
    with pytest.raises(TokenizerError, match=r"outside the vocabulary|row of integer ids"):
        texts.trained("gpt2").decode(wrong)


@pytest.mark.parametrize("empty", [[], (), np.array([], np.int32)])
def test_no_ids_are_no_text(empty) -> None:
    assert texts.trained("gpt2").decode(empty) == ""
    assert texts.trained("gpt2").encode("").shape == (0,)


@pytest.mark.parametrize("pad", ["left", "right"])
@given(batch=st.lists(st.text("the of ", max_size=8), max_size=5))
def test_a_batch_is_its_rows_with_padding_and_a_mask(pad: str, batch: list[str]) -> None:
    tokenizer = texts.trained("gpt2")
    ids, mask = tokenizer.encode_batch(batch, pad=pad)  # type: ignore[arg-type]
    rows = [tokenizer.encode(text) for text in batch]
    assert ids.shape == mask.shape == (len(batch), max(map(len, rows), default=0))
    assert (ids.dtype, mask.dtype) == (np.int32, np.bool_)
    for row, row_ids, row_mask in zip(rows, ids, mask, strict=True):
        assert row_ids[row_mask].tolist() == row.tolist()
        assert (row_ids[~row_mask] == tokenizer.pad_id).all()
        assert (row_mask[len(row_mask) - len(row) :] if pad == "left" else row_mask[: len(row)]).all()


def test_a_padding_token_that_was_asked_for_is_a_real_token() -> None:
    ids, mask = texts.trained("gpt2").encode_batch(["<|pad|>!", "!"], allowed_special="all")
    assert ids[0, 0] == ids[1, 1] == 0
    assert mask.tolist() == [[True, True], [True, False]]


def test_padding_is_the_padding_token_wherever_it_stands() -> None:
    swapped = Tokenizer.train(["a"], vocab_size=300, special_tokens=["<|endoftext|>", "<|pad|>"])
    assert swapped.encode_batch(["!!", "!"])[0][1, 1] == swapped.pad_id == 1
    without = Tokenizer.train(["a"], vocab_size=300, special_tokens=[])
    assert without.encode_batch(["a", "b"], pad=None)[0].shape == (2, 1)
    with pytest.raises(TokenizerError, match="no padding token"):
        without.encode_batch(["a", "b"])


def test_a_batch_without_padding_wants_equal_lengths() -> None:
    tokenizer = texts.trained("gpt2")
    ids, mask = tokenizer.encode_batch(["!!", "??"], pad=None)
    assert mask.all()
    assert [tokenizer.decode(row) for row in ids] == ["!!", "??"]
    with pytest.raises(TokenizerError, match="pad is None but the texts have 1 to 3 tokens"):
        tokenizer.encode_batch(["!", "1,2"], pad=None)


def test_too_long_a_text_is_an_error_unless_a_side_may_go() -> None:
    tokenizer = texts.trained("gpt2")
    [long] = tokenizer.encode_batch(["1,2,3,4"])[0]
    with pytest.raises(TokenizerError, match="a text has 7 tokens, max_length is 3"):
        tokenizer.encode_batch(["1", "1,2,3,4"], max_length=3)
    assert tokenizer.encode_batch(["1,2,3,4"], max_length=3, truncate="left")[0].tolist() == [long[-3:].tolist()]
    assert tokenizer.encode_batch(["1,2,3,4"], max_length=3, truncate="right")[0].tolist() == [long[:3].tolist()]
    assert tokenizer.encode_batch(["1,2,3,4"], max_length=7)[0].tolist() == [long.tolist()]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.encode(["a"]), "encode wants one str, not list"),
        (lambda t: t.encode("a", method="longest"), "unknown method 'longest'"),
        (lambda t: t.encode_batch("a"), "encode_batch wants several texts"),
        (lambda t: t.encode_batch(["a"], pad="middle"), "unknown side 'middle'"),
        (lambda t: t.encode_batch(["a b"], max_length=1, truncate="both"), "unknown side 'both'"),
        (lambda t: t.encode_batch(["a"], max_length=0), "max_length is 0"),
        (lambda t: t.token_bytes(-1), "id -1 is outside the vocabulary: 0 … 699"),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        call(texts.trained("gpt2"))


def test_looking_into_a_vocabulary() -> None:
    tokenizer = Tokenizer.train(["low,low,low,lo"], vocab_size=262)
    assert show(tokenizer, "low é") == "low| |<0xC3>|<0xA9>"
    assert bytes_per_token(tokenizer, "low!") == 2.0
    assert bytes_per_token(tokenizer, "") == 0.0
    assert token_info(tokenizer, 0).kind == "special"
    assert token_info(tokenizer, 2)[1:] == (b"!", "first symbol", None)
    low = token_info(tokenizer, int(tokenizer.encode("low")[0]))
    assert (low.content, low.kind) == (b"low", "merge")
    assert low.parts is not None
    assert b"".join(map(tokenizer.token_bytes, low.parts)) == b"low"
