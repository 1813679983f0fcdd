"""Draws what `benchmarks.train_step --json` wrote."""

from pathlib import Path
from typing import Any

from benchmarks import turns

Run = list[dict[str, Any]]  # the engines that were compared with each other


def draw(path: Path) -> Path:
    """A panel for the newest run of each shape; returns the PNG's path. Raises ValueError for a file without any.

    Runs are not mixed: an engine measured at another time, or elsewhere, is no comparison.
    """
    from matplotlib.figure import Figure

    newest = newest_runs(turns.read(path), path)
    figure = Figure(figsize=(9, sum(1.1 + 0.3 * len(run) for run in newest.values())), layout="constrained")
    heights = [3 + len(run) for run in newest.values()]
    panels = figure.subplots(len(newest), squeeze=False, height_ratios=heights)[:, 0]
    for axes, (shape, run) in zip(panels, newest.items(), strict=True):
        _bars(axes, sorted(run, key=lambda record: float(record["tokens_per_second"])))
        first = run[0]
        axes.set_title(f"shape {shape} · {first['threads']} threads · {first['machine']} · {first['run']}", fontsize=9)
    figure.savefig(path.with_suffix(".png"), dpi=120)
    return path.with_suffix(".png")


def newest_runs(records: Run, path: Path) -> dict[str, Run]:
    """shape → the records of the last run in the file that measured it. Raises ValueError for other records."""
    try:
        last = {record["shape"]: (record["run"], record["machine"]) for record in records}
        return {
            shape: [r for r in records if (r["shape"], r["run"], r["machine"]) == (shape, *run)]
            for shape, run in last.items()
        }
    except KeyError as error:
        raise ValueError(f"{path} is not from benchmarks.train_step: a line has no {error}") from None


def _bars(axes: Any, run: Run) -> None:
    """tokens/s: the median, and from the 90th to the 10th percentile of the times."""
    rates = [r["tokens_per_second"] for r in run]
    spread = [
        [rate - rate * r["ms"] / r["p90"] for rate, r in zip(rates, run, strict=True)],
        [rate * r["ms"] / r["p10"] - rate for rate, r in zip(rates, run, strict=True)],
    ]
    colors = ["tab:orange" if r["engine"].startswith("nanograd") else "tab:gray" for r in run]
    axes.barh([r["engine"] for r in run], rates, xerr=spread, color=colors, ecolor="black", capsize=2)
    for i, r in enumerate(run):
        ratio = "" if r["ratio"] is None else f"   {r['ratio']:.2f} ×"
        text = f"{r['tokens_per_second']:,.0f}{ratio}   {r['peak_mb']:,.0f} MB"
        axes.annotate(text, (rates[i] + spread[1][i], i), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set(xlabel="tokens/s, ratio to the fastest peer, peak memory", xlim=(0, 1.45 * max(rates)))
