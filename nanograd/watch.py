"""Floor 1. Who is told about every operation: nobody, or the profile that is being taken (nanograd/profile.py)."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from nanograd.backend import Array, ArrayModule


class Watcher(Protocol):
    """What a profile must answer."""

    def operation(
        self, op: Any, xp: ArrayModule, arrays: list[Array], settings: dict[str, Any]
    ) -> tuple[Array, Any, Any]:
        """Stands in for `Primitive.fastest`, and returns the same: y, saved, rule."""

    def part(self, name: str) -> AbstractContextManager[None]:
        """Around a part of the program that has a name."""


watcher: Watcher | None = None
_nothing = nullcontext()


def part(name: str) -> AbstractContextManager[None]:
    """`with part("optimizer"): …` gives a name to what the block does, in case somebody is watching."""
    return _nothing if watcher is None else watcher.part(name)
