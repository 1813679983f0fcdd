"""Rotary positions beyond the context that a model was trained for: other frequencies θᵢ, a formula for each way.

A model that has seen positions up to L₀ has seen each hand of the clock at angles up to L₀ θᵢ. Fast hands went round
many times and know all angles; slow ones never finished their first turn, and an angle beyond is news to them. So for a
context s times as long the slow hands, or all, are slowed down by s. With r = L₀ θᵢ / 2π, the turns of hand i:

linear   θᵢ / s.  All hands: nothing is new, but neighbours come s times closer together.
         Chen et al. 2023, arXiv:2306.15595
ntk      base · s^(D/(D − 2)) for base: the slowest hand becomes s times slower, the fastest stays, those between by
         degrees. "NTK-aware", bloc97 2023; also in arXiv:2309.00071, section 3.1
dynamic  the same with s L/L₀ − (s − 1) for s, where L is the length of the text at hand; nothing up to L₀.
         As in Hugging Face's transformers. So the frequencies of all tokens change while a text grows.
yarn     θᵢ / s where r < 1, θᵢ where r > 32, and a mixture, linear in i, between: "NTK by parts". And all queries and
         keys times 0.1 ln s + 1, since softmax over more keys is flatter.   Peng et al. 2023, arXiv:2309.00071
llama3   θᵢ / s where r < 1, θᵢ where r > 4, and a mixture, linear in r, between.
         Llama 3.1: apply_scaling in github.com/meta-llama/llama-models, models/llama3/model.py
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

Kind: TypeAlias = Literal["none", "linear", "ntk", "dynamic", "yarn", "llama3"]


@dataclass(frozen=True)
class Scaling:
    """How frequencies are changed for a context `factor` times as long as `original_context` (L₀, in tokens)."""

    kind: Kind = "none"
    factor: float = 1.0
    original_context: int = 1
    fast: float = 32.0  # yarn: turns within L₀ from which on a hand keeps its speed
    slow: float = 1.0  # yarn: turns up to which a hand is slowed down by the whole factor
    high: float = 4.0  # llama3: the same two
    low: float = 1.0

    @property
    def amplitude(self) -> float:
        """What turned queries and keys are multiplied by."""
        return 0.1 * math.log(self.factor) + 1 if self.kind == "yarn" else 1.0

    def at(self, length: int) -> "Scaling":
        """What holds for a text of `length` tokens: for "dynamic" a fixed "ntk" or "none"; others don't care."""
        if self.kind != "dynamic":
            return self
        factor = self.factor * max(length, self.original_context) / self.original_context - (self.factor - 1)
        return Scaling("ntk", factor)


def check_scaling(scaling: Scaling) -> None:
    """Raise ValueError for a kind that does not exist, a factor below 1, or no original context."""
    if scaling.kind not in get_args(Kind):
        raise ValueError(f"rotary scaling {scaling.kind!r} is none of {', '.join(get_args(Kind))}")
    if not 1 <= scaling.factor < math.inf or scaling.original_context < 1:
        raise ValueError(
            f"rotary scaling needs a factor >= 1 and an original context >= 1, not {scaling.factor} and "
            f"{scaling.original_context}"
        )


def scaled_frequencies(theta: Any, *, base: float, scaling: Scaling) -> Any:
    """θᵢ (D/2,) float64 of the plain rotary positions of this base → those of the scaled ones.

    theta may also be a CuPy array. For "dynamic" give scaling.at(length). Raises ValueError for bad settings.
    """
    check_scaling(scaling)
    s, L, D = scaling.factor, scaling.original_context, 2 * len(theta)
    if scaling.kind == "dynamic":
        raise ValueError("dynamic scaling depends on the length of the text: ask scaling.at(length)")
    if scaling.kind == "none" or s == 1:
        return theta
    if not base > 1:
        raise ValueError(f"rotary scaling slows down the slower hands, but with base {base} none is slower")
    if scaling.kind == "linear":
        return theta / s
    if scaling.kind == "ntk":
        return theta if D == 2 else theta ** (1 + math.log(s) / math.log(base) * D / (D - 2))
    if scaling.kind == "llama3":
        keep = np.clip((L * theta / (2 * math.pi) - scaling.low) / (scaling.high - scaling.low), 0, 1)
    else:
        keep = _kept_by_yarn(theta, base, scaling)
    return theta * (keep + (1 - keep) / s)


def _kept_by_yarn(theta: Any, base: float, scaling: Scaling) -> Any:
    """1 for hands that keep their speed, 0 for those that lose all of the factor.

    Hand i turns r times within L₀ if i = D/2 · ln(L₀ / 2πr) / ln base. The two limits are rounded outwards.
    """
    half = len(theta)
    start, end = (
        half * math.log(scaling.original_context / (2 * math.pi * turns)) / math.log(base)
        for turns in (scaling.fast, scaling.slow)
    )
    start, end = max(math.floor(start), 0), min(math.ceil(end), 2 * half - 1)
    i = -np.log(theta) / math.log(base) * half
    return 1 - np.clip((i - start) / max(end - start, 0.001), 0, 1)
