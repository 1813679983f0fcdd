"""Ids → text: look up each token's bytes, join them, read them as UTF-8. At once, or id by id for a live stream.

A token may end in the middle of a character, so bytes are joined before they are read. Broken UTF-8, which a model can
well produce, becomes U+FFFD; the three bytes of a lone surrogate become that surrogate, so that every str survives.
"""

import codecs
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pre_process.tokenizer.kernels import compiled_pays
from pre_process.tokenizer.vocabulary import TokenizerError, Vocabulary

if TYPE_CHECKING:
    from pre_process.tokenizer.kernels.compiled import CompiledDecoder

BYTES_PER_TOKEN = 4  # about


def _pass_surrogates_replace_the_rest(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogatepass")(error)
    except UnicodeError:
        return codecs.lookup_error("replace")(error)


_ERRORS = "pre_process.tokenizer.surrogatepass_or_replace"
codecs.register_error(_ERRORS, _pass_surrogates_replace_the_rest)


def checked_ids(ids: Sequence[int] | np.ndarray, vocab_size: int) -> list[int]:
    """`id_array` as a list."""
    return id_array(ids, vocab_size).tolist()  # type: ignore[no-any-return]


def id_array(ids: Sequence[int] | np.ndarray, vocab_size: int) -> np.ndarray:
    """`ids` as an array (n,) of integers, all within 0 … vocab_size − 1. Raises TokenizerError (no id wraps around)."""
    array = np.asarray(ids)
    if array.size == 0 and array.ndim == 1:
        return array.astype(np.int32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TokenizerError(f"decode wants a row of integer ids, not shape {array.shape} of {array.dtype}")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= vocab_size:
        raise TokenizerError(f"id {low if low < 0 else high} is outside the vocabulary: 0 … {vocab_size - 1}")
    return array


class Decoder:
    """Ids → text: in Python or by compiled code, whichever is quicker. Tokens in `silent` leave no trace."""

    def __init__(self, vocabulary: Vocabulary, silent: frozenset[int]) -> None:
        self._vocabulary = vocabulary
        self._silent = silent

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids` (n,). Raises TokenizerError for ids that do not exist."""
        tokens, checked = self._vocabulary.tokens, id_array(ids, len(self._vocabulary.tokens))
        if compiled_pays("decode", BYTES_PER_TOKEN * len(checked)):
            return str(self._compiled.decode(checked).data, "utf-8", _ERRORS)
        return b"".join(tokens[i] for i in checked.tolist() if i not in self._silent).decode("utf-8", _ERRORS)

    @cached_property
    def _compiled(self) -> "CompiledDecoder":
        from pre_process.tokenizer.kernels.compiled import CompiledDecoder

        return CompiledDecoder(self._vocabulary.tokens, self._silent)


class StreamDecoder:
    """Decodes id by id and never emits half a character: what `feed` returns, joined, plus `finish`, is `decode`."""

    def __init__(self, vocabulary: Vocabulary, *, skip_special: bool = True) -> None:
        self._tokens = vocabulary.tokens
        self._skipped = vocabulary.silent_ids if skip_special else frozenset[int]()
        self._utf8 = codecs.getincrementaldecoder("utf-8")(_ERRORS)

    def feed(self, token_id: int) -> str:
        """The characters that this id completes; "" while one is unfinished. Raises TokenizerError for a wrong id."""
        [token_id] = checked_ids([token_id], len(self._tokens))
        return "" if token_id in self._skipped else self._utf8.decode(self._tokens[token_id])

    def finish(self) -> str:
        """What is left of an unfinished character, as U+FFFD; the decoder is as new afterwards."""
        return self._utf8.decode(b"", final=True)
