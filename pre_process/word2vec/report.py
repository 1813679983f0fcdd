"""What `python -m pre_process.word2vec` prints: neighbours, the tables of an evaluation."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pre_process.word2vec.evaluate import Evaluation

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Near = Sequence[tuple[str, float]]  # words with their cosines, the nearest first


def neighbours_table(columns: Mapping[str, Near]) -> "Table":
    """A column for each word or question: what is nearest, with its cosine."""
    table = _table()
    for title in columns:
        table.add_column(title, no_wrap=True)
    for row in range(max(map(len, columns.values()), default=0)):
        table.add_row(*(_cell(near[row]) if row < len(near) else "" for near in columns.values()))
    return table


def _cell(found: tuple[str, float]) -> str:
    return f"{found[0]} {found[1]:.2f}"


def print_evaluation(console: "Console", found: Evaluation) -> None:
    """Both correlations and the analogies, and how much of each test the vocabulary covers."""
    table = _table("", "score", "asked", "out of vocabulary")
    for name, pairs in found.pairs.items():
        score = "–" if pairs.spearman is None else f"{pairs.spearman:.3f}"
        table.add_row(name, score, f"{pairs.used:,} of {pairs.total:,} pairs", _lacking(pairs.used, pairs.total))
    total = found.analogies
    table.add_row(
        "analogies", _share(total.share), f"{total.asked:,} of {found.n_analogies:,} questions",
        _lacking(total.asked, found.n_analogies),
    )  # fmt: skip
    console.print(table)
    console.print("pairs: Spearman's correlation with people; analogies: share of right answers")
    kinds = _table("analogies of the kind", "right", "asked", "share")
    for section in (section for section in found.sections if section.asked):
        kinds.add_row(section.name, f"{section.right:,}", f"{section.asked:,}", _share(section.share))
    if kinds.rows:
        console.print(kinds)


def as_record(found: Evaluation) -> dict[str, Any]:
    """The same for machines; shares are numbers from 0 to 1, null where nothing was asked."""
    sections = [dataclasses.asdict(section) | {"share": section.share} for section in found.sections]
    analogies = {"share": found.analogies.share, "right": found.analogies.right, "asked": found.analogies.asked}
    pairs = {name: dataclasses.asdict(pairs) for name, pairs in found.pairs.items()}
    return pairs | {"analogies": analogies | {"total": found.n_analogies, "sections": sections}}


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _lacking(used: int, total: int) -> str:
    return f"{(total - used) / total:.1%}"


def _table(*titles: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, title in enumerate(titles):
        table.add_column(title, justify="right" if place else "left")
    return table
