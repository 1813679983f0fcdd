"""Floor 6. What nanograd finds on this machine, and what is missing for speed: python -m nanograd.doctor"""

import itertools
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from nanograd import terminal
from nanograd.config import parse_flags
from nanograd.findings import Finding, all_findings

ABOUT = (
    "Devices, libraries, threads, compiled kernels and disk of this machine; below the table, what is missing for "
    "speed, each with the command that mends it."
)


class DoctorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What nanograd finds on this machine."""

    json: bool = False
    """print the findings as JSON"""


def main(argv: Sequence[str] | None = None) -> None:
    """Look and print. What is missing is no error: the exit code is 0."""
    config = parse_flags(DoctorConfig, argv, prog="python -m nanograd.doctor", about=ABOUT)
    terminal.configure_logging()
    found = all_findings()
    if config.json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        _print(found)


def _print(found: Sequence[Finding]) -> None:
    from rich.console import Console

    screen = Console(highlight=False)
    screen.print(_table(found))
    missing = [finding for finding in found if finding.missing]
    print("missing for speed:" if missing else "nothing is missing")
    for finding in missing:
        print(f"  {finding.section}, {finding.name}: {finding.missing}")
        if finding.mend:
            print(f"    {finding.mend}")


def _table(found: Sequence[Finding]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table("", "", "", show_header=False)
    table.columns[2].overflow = "fold"
    for section, lines in itertools.groupby(found, lambda finding: finding.section):
        rows = list(lines)
        for i, finding in enumerate(rows):
            cells = section if i == 0 else "", finding.name, finding.value
            table.add_row(*map(Text, cells), end_section=i == len(rows) - 1)  # Text: a path may hold [brackets]
    return table


if __name__ == "__main__":
    sys.exit(terminal.run(main))
