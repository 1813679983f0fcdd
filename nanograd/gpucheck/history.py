"""Floor 6. What was verified on a GPU and when; and which kernels have changed since.

A line of benchmarks/gpu_history.jsonl: date, commit, device, the digest of every kernel source whose parity held, and
the table of times. Digests cover the headers: a change there concerns all kernels.
"""

import json
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanograd.kernels.cuda.sources import digest, families

ROOT = Path(__file__).parents[2]
HISTORY = ROOT / "benchmarks" / "gpu_history.jsonl"


class HistoryError(ValueError):
    """A line of the history that can't be read."""


def kernel_digests() -> dict[str, str]:
    """Name of each .cu file → its digest now."""
    return {path.name: digest(path) for path in families()}


def read_history(path: Path | None = None) -> list[dict[str, Any]]:
    """All records, oldest first; none where there is no file. None: this clone's. Raises HistoryError."""
    path = path or HISTORY
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            records.append({**record, "kernels": dict(record["kernels"])})
        except (ValueError, TypeError, KeyError) as error:
            raise HistoryError(f"{path}, line {number} is damaged ({error}): restore it from git") from None
    return records


def append(record: Mapping[str, Any], path: Path | None = None) -> None:
    """One more line. None: of this clone's history. Raises OSError."""
    with (path or HISTORY).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, sort_keys=True) + "\n")


def new_record(figures: Mapping[str, Any], *, verified: bool) -> dict[str, Any]:
    """What a run of the check leaves behind. verified: the kernels agree with their formulas."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "kernels": kernel_digests() if verified else {},
        **figures,
    }


def changed_since(records: Iterable[Mapping[str, Any]], now: Mapping[str, str]) -> dict[str, str]:
    """Kernel file → 'never verified' or 'changed since DATE (COMMIT)', for each that no GPU has seen as it is."""
    records = list(records)
    changed = {}
    for name, digest_now in now.items():
        seen = [record for record in records if name in record["kernels"]]
        if not any(record["kernels"][name] == digest_now for record in seen):
            last = seen[-1] if seen else None
            changed[name] = f"changed since {last['date']} ({last['commit']})" if last else "never verified on a GPU"
    return changed


def commit() -> str:
    """The commit that is checked out, with a + if files have changed; 'unknown' away from git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return described.stdout.strip()
