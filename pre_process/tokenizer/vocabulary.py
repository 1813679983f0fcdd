"""The vocabulary: id → bytes, the merges with their ranks, and the special tokens. What a tokenizer knows, frozen.

Every token, of whatever level, is some bytes, and each of the 256 bytes is a token: so there is no text without ids and
no "unknown" token is needed. Two levels of first symbols: "byte" starts from the 256 bytes, "character" from the
characters seen in training, a rare one falling back to its bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from reprlib import repr as short
from typing import Literal, NamedTuple

from pre_process.tokenizer.byte_level import BYTES_IN_ORDER, utf8

Level = Literal["byte", "character"]
ALL_BYTES = frozenset(BYTES_IN_ORDER)


class TokenizerError(ValueError):
    """A tokenizer, a vocabulary file or a text that cannot be used; the message is one line."""


class AddedToken(NamedTuple):
    """How a special token is found in a text in which it is allowed, and whether decoding leaves it out."""

    silent: bool = True  # left out by decode; a token added only for its length ("    ") is not
    lstrip: bool = False  # takes the white space before it
    rstrip: bool = False  # takes the white space behind it
    single_word: bool = False  # only where no letter, digit or _ stands beside it
    after_others: bool = False  # looked for in what the others leave over


PLAIN_SPECIAL = AddedToken()


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id; `tokens[i]` are the bytes of token i (of a special token: its name). Raises TokenizerError.

    A merge (left, right) makes the token whose bytes are those of `left` and `right` together; its rank is its place
    in `merges`. `ids` finds ordinary tokens by their bytes, never a special one: plain text cannot spell a special.

    `whole_pieces`: a piece that is a token becomes that token, whatever merges would make of it (tiktoken's way).
    `added` holds the special tokens that are not PLAIN_SPECIAL.
    """

    tokens: tuple[bytes, ...]
    merges: tuple[tuple[int, int], ...]
    specials: Mapping[str, int]
    level: Level
    whole_pieces: bool = False
    added: Mapping[str, AddedToken] = field(default_factory=dict)
    ids: dict[bytes, int] = field(init=False, repr=False)
    ranks: dict[tuple[int, int], tuple[int, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", self._number_tokens())
        object.__setattr__(self, "ranks", self._rank_merges())

    def _number_tokens(self) -> dict[bytes, int]:
        special_ids = set(self.specials.values())
        ids: dict[bytes, int] = {}
        for token_id, token in enumerate(self.tokens):
            if token_id in special_ids:
                continue
            if not token:
                raise TokenizerError(f"token {token_id} is empty")
            if ids.setdefault(token, token_id) != token_id:
                raise TokenizerError(f"tokens {ids[token]} and {token_id} are both {short(token)}")
        if missing := ALL_BYTES - ids.keys():
            raise TokenizerError(
                f"{len(missing)} of the 256 single bytes are not in the vocabulary: {min(missing)!r} …"
            )
        return ids

    def _rank_merges(self) -> dict[tuple[int, int], tuple[int, int]]:
        """(left, right) → (rank, id of the token that the two make)."""
        ranks: dict[tuple[int, int], tuple[int, int]] = {}
        special_ids = set(self.specials.values())
        for rank, (left, right) in enumerate(self.merges):
            made = self.ids.get(self.tokens[left] + self.tokens[right])
            if made is None or left in special_ids or right in special_ids:
                parts = f"{short(self.tokens[left])} and {short(self.tokens[right])}"
                raise TokenizerError(f"merge {rank} joins {parts} to no token")
            if ranks.setdefault((left, right), (rank, made))[0] != rank:
                raise TokenizerError(f"merges {ranks[left, right][0]} and {rank} are the same")
        return ranks

    @cached_property
    def silent_ids(self) -> frozenset[int]:
        """The special tokens that decoding leaves out unless asked."""
        loud = {name for name, flags in self.added.items() if not flags.silent}
        return frozenset(token_id for name, token_id in self.specials.items() if name not in loud)

    @cached_property
    def needs_greedy(self) -> bool:
        """True for a bare list of words: longer tokens but no merges that would make them."""
        return not self.merges and not self.whole_pieces and not all(map(self.is_first_symbol, self.ids))

    def is_first_symbol(self, token: bytes) -> bool:
        """True for one byte, or at character level one character: a token that no merge has to make."""
        return len(token) == 1 or (self.level == "character" and len(token.decode("utf-8", "replace")) == 1)

    def symbols(self, piece: str) -> list[int]:
        """The ids that a piece starts from before any merge: its bytes, or its characters where they are tokens."""
        if self.level == "byte":
            return self.byte_ids(utf8(piece))
        ids: list[int] = []
        for character in map(utf8, piece):
            known = self.ids.get(character)
            ids += self.byte_ids(character) if known is None else [known]
        return ids

    def byte_ids(self, data: bytes) -> list[int]:
        """The ids of the single bytes of `data`: every text has them."""
        return [self.ids[data[i : i + 1]] for i in range(len(data))]
