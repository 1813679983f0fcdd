"""Tables and a picture of what `benchmarks.embedding_start` found."""

from pathlib import Path
from typing import Any

import numpy as np

Runs = list[dict[str, Any]]  # of one text and one start: a record for each seed
COLORS = {"random": "black", "random, untied": "black", "word2vec": "tab:orange", "word2vec, untied": "tab:orange",
          "frozen word2vec": "tab:blue"}  # fmt: skip
ROWS = 5  # token counts in the table


def by_text(records: Runs) -> dict[str, dict[str, Runs]]:
    """text → start → its runs, in the order of the records."""
    grouped: dict[str, dict[str, Runs]] = {}
    for record in records:
        grouped.setdefault(record["corpus"], {}).setdefault(record["start"], []).append(record)
    return grouped


def curves(runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """Tokens seen (E,), and each seed's validation losses there (seeds, E)."""
    tokens = np.array([tokens for tokens, _ in runs[0]["curve"]])
    return tokens, np.array([[loss for _, loss in run["curve"]] for run in runs])


def show(records: Runs) -> None:
    """For each text, the losses on the way, and how soon each start is where the best random one ends."""
    for text, starts in by_text(records).items():
        seeds = len(next(iter(starts.values())))
        print(f"\n{text}: validation loss in nats per token, mean ± standard deviation of {seeds} seeds")
        print(f"{'tokens':>12}" + "".join(f"{name:>20}" for name in starts))
        tokens, _ = curves(next(iter(starts.values())))
        for i in np.unique(np.linspace(-1, len(tokens) - 1, ROWS + 1).round().astype(int)[1:]):
            print(f"{tokens[i]:12,}" + "".join(f"{_spread(curves(runs)[1][:, i]):>20}" for runs in starts.values()))
        if rivals := [curves(runs)[1].mean(axis=0)[-1] for runs in starts.values() if _is_random(runs)]:
            _show_advantage(starts, float(min(rivals)))


def _is_random(runs: Runs) -> bool:
    return "--init random" in str(runs[0]["flags"])


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


def _show_advantage(starts: dict[str, Runs], goal: float) -> None:
    """In tokens: the vectors' own price, converted by what a token of the run costs, and what is saved by them."""
    tokens, _ = curves(next(iter(starts.values())))
    end = int(tokens[-1])
    print(f"{'start':>20}{'vectors cost':>16}{f'tokens to {goal:.3f}':>18}{f'loss at {end:,} - cost':>26}")
    for name, runs in starts.items():
        cost, mean = price_in_tokens(runs), curves(runs)[1].mean(axis=0)
        when = tokens_to_reach(goal, tokens, mean)
        reached = f"{when:,.0f}" if when is not None else "not reached"
        within = end - cost >= tokens[0]
        at_equal_time = f"{np.interp(end - cost, tokens, mean):.3f}" if within else "not yet measured"
        print(f"{name:>20}{cost:>16,.0f}{reached:>18}{at_equal_time:>26}")


def price_in_tokens(runs: Runs) -> float:
    """How many tokens the run could have seen while word2vec worked, both on one thread; its start counts as well."""
    per_token = [run["training_seconds"] / run["curve"][-1][0] for run in runs]
    return float(np.mean([run["word2vec_seconds"] for run in runs]) / np.mean(per_token))


def tokens_to_reach(goal: float, tokens: np.ndarray, losses: np.ndarray) -> float | None:
    """Where the curve first comes down to `goal`, on the straight line between two evaluations; None: it does not."""
    below = np.flatnonzero(losses <= goal)
    if len(below) == 0:
        return None
    i = int(below[0])
    if i == 0:
        return float(tokens[0])
    return float(np.interp(-goal, -losses[i - 1 : i + 1], tokens[i - 1 : i + 1]))


def draw(records: Runs, path: Path) -> None:
    """A panel for each text: the mean of the seeds as a line, from the lowest to the highest as a band."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    texts = by_text(records)
    figure = Figure(figsize=(5 * len(texts), 4), layout="constrained")
    for axes, (text, starts) in zip(figure.subplots(1, len(texts), squeeze=False)[0], texts.items(), strict=True):
        unigram = next(iter(starts.values()))[0]["unigram_loss"]
        axes.axhline(unigram, color="gray", linestyle=":", label="unigram model")
        for name, runs in starts.items():
            tokens, losses = curves(runs)
            [line] = axes.plot(tokens, losses.mean(axis=0), label=name, color=COLORS.get(name), linewidth=1.5,
                               linestyle="--" if "untied" in name else "-")  # fmt: skip
            axes.fill_between(tokens, losses.min(axis=0), losses.max(axis=0), color=line.get_color(), alpha=0.2)
        axes.set(title=text, xlabel="tokens seen", ylabel="validation loss, nats per token")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1e6:g} M" if x else "0"))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=100)
