"""Finding a token in the vocabulary three ways: brute force, binary search, hash table. Same answers, other costs.

For V tokens of about L bytes: brute force reads O(V·L) bytes, binary search O(L·log V), the hash table O(L). On top of
any of them stands the longest match, which is how a vocabulary without merges is applied (encoder.py, "greedy").
"""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Mapping


class Lookup(ABC):
    """Tokens (bytes) → ids."""

    def __init__(self, ids: Mapping[bytes, int]) -> None:
        self.longest_token = max(map(len, ids), default=0)

    @abstractmethod
    def find(self, token: bytes) -> int | None:
        """The token's id, None if it is not in the vocabulary (not −1: that would index the last row of a table)."""

    def longest_match(self, data: bytes, start: int = 0) -> tuple[int, int] | None:
        """(id, end) of the longest token that `data` holds at `start`; None if no token begins there."""
        for end in range(min(len(data), start + self.longest_token), start, -1):
            if (token_id := self.find(data[start:end])) is not None:
                return token_id, end
        return None


class BruteForceLookup(Lookup):
    """Compare with one token after the other."""

    def __init__(self, ids: Mapping[bytes, int]) -> None:
        super().__init__(ids)
        self._pairs = list(ids.items())

    def find(self, token: bytes) -> int | None:
        return next((token_id for candidate, token_id in self._pairs if candidate == token), None)


class BinarySearchLookup(Lookup):
    """Sort the tokens once, then halve the interval in which the token must lie."""

    def __init__(self, ids: Mapping[bytes, int]) -> None:
        super().__init__(ids)
        self._sorted = sorted(ids)
        self._ids = [ids[token] for token in self._sorted]

    def find(self, token: bytes) -> int | None:
        i = bisect_left(self._sorted, token)
        return self._ids[i] if i < len(self._sorted) and self._sorted[i] == token else None


class HashLookup(Lookup):
    """A dict: the token's hash says where it lies. What the encoder uses."""

    def __init__(self, ids: Mapping[bytes, int]) -> None:
        super().__init__(ids)
        self._ids = dict(ids)

    def find(self, token: bytes) -> int | None:
        return self._ids.get(token)
