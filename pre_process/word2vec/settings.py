"""What both engines are told, with the bounds of each setting."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pre_process.word2vec.kernels import LONGEST

MOST_THREADS = 1024  # a system gives a process some thousands, and each has working memory of its own

ENGINE_VERSION = 1  # raise it when our engine gives other vectors, and cached ones are passed over

Architecture = Literal["cbow", "skip-gram"]
Engine = Literal["nanograd", "gensim"]
Progress = Callable[[int, int], None]  # words done, words in all over all epochs


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Raises ValueError for a value that means nothing.

    window    the furthest that a word may stand from the middle one; each window's reach is drawn from 1 to `window`;
              at most 10,000, for no sentence is longer
    negative  words drawn with probability ∝ count^¾ for each middle word
    sample    an occurrence of a word that makes up the share f of the corpus is used with probability
              √(sample/f) + sample/f, at most 1 (word2vec.c); 0 uses all
    lr        falls evenly, over all words of all epochs, to min_lr
    threads   1 gives the same bits for the same seed; more write to the same vectors without waiting for each other
    """

    d_model: int = 100
    architecture: Architecture = "skip-gram"
    window: int = 5
    negative: int = 5
    epochs: int = 5
    sample: float = 1e-3
    lr: float = 0.025
    min_lr: float = 1e-4
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.architecture not in ("cbow", "skip-gram"):
            raise ValueError(f"no architecture {self.architecture!r}: use 'cbow' or 'skip-gram'")
        for name in ("d_model", "window", "negative", "epochs", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name, most in (("window", LONGEST), ("threads", MOST_THREADS)):
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most:,}, not {getattr(self, name):,}")
        if not 0 <= self.sample < 1:
            raise ValueError(f"sample must be at least 0 and below 1, not {self.sample}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr must be a number above 0, not {self.lr}")
        if not 0 <= self.min_lr <= self.lr:
            raise ValueError(f"min_lr must be between 0 and lr = {self.lr}, not {self.min_lr}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be at least 0 and below 2³², not {self.seed}")
