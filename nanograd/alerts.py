"""Floor 5. Alerts: a loss that has doubled, steps that have become slow. Each is told once, until things are as before.

What is usual is a running mean over the steps that were: one step at 30,000 tokens a second says nothing about the
others, and a loss that stays high must not become usual. The thresholds are those of the plan: loss × 2 at one step,
30 % fewer tokens per second for eight steps in a row (a single slow step is only a busy machine).
"""

from collections.abc import Iterable, Mapping
from typing import Any

SPIKE = 2.0  # times the usual loss
SLOW = 0.7  # of the usual tokens per second
IN_A_ROW = 8  # slow steps that are an alert; normal ones that end it, or a spike
SETTLED = 20  # steps before the usual is known
MEMORY = 0.98  # of a running mean, for each step


class RunningMean:
    """Exponential mean that starts without bias: m ← β m + (1 − β) x, divided by 1 − βⁿ.   Kingma & Ba 2015, §3"""

    def __init__(self) -> None:
        self.n, self._sum = 0, 0.0

    def add(self, x: float) -> None:
        """One more value."""
        self.n, self._sum = self.n + 1, MEMORY * self._sum + (1 - MEMORY) * x

    @property
    def value(self) -> float:
        """NaN before the first value."""
        return self._sum / (1 - MEMORY**self.n) if self.n else float("nan")


class Alert:
    """One kind of trouble: begins after `patience` bad values in a row, ends after IN_A_ROW good ones."""

    def __init__(self, patience: int) -> None:
        self.usual, self._patience, self._is_on, self._run = RunningMean(), patience, False, 0

    def begins(self, x: float, *, bad: bool) -> bool:
        """Whether trouble begins with this value."""
        if not bad:
            self.usual.add(x)
        against = bad != self._is_on  # trouble while all was well, or the other way round
        self._run = self._run + 1 if against and self.usual.n > SETTLED else 0
        if self._run < (IN_A_ROW if self._is_on else self._patience):
            return False
        self._is_on, self._run = not self._is_on, 0
        return self._is_on


class Alerts:
    """Looks at every step's record. The alerts for the loss depend on the losses alone: a resumed run has the same.

    The loss of a step that was skipped is told as such, and says nothing about the model.
    """

    def __init__(self, earlier: Iterable[Mapping[str, Any]] = ()) -> None:
        self._loss, self._speed = Alert(1), Alert(IN_A_ROW)
        for record in earlier:
            self.check(record)

    def check(self, record: Mapping[str, Any]) -> dict[str, str]:
        """What begins with this step, if anything: a line under `loss_alert`, another under `speed_alert`."""
        found, step = {}, record["step"]
        loss, usual = record["loss"] if record["loss"] is not None else float("nan"), self._loss.usual.value
        is_bad = usual == usual and not loss <= SPIKE * usual
        if "skipped" not in record and self._loss.begins(loss, bad=is_bad):
            found["loss_alert"] = f"step {step}: loss {loss:.3f}, more than twice the usual {usual:.3f}"
        speed, usual = record["tokens_per_second"], self._speed.usual.value
        if self._speed.begins(speed, bad=speed < SLOW * usual):
            found["speed_alert"] = (
                f"step {step}: {speed:,.0f} tokens per second, {IN_A_ROW} steps below 70 % of {usual:,.0f}"
            )
        return found
