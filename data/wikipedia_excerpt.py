"""The embedded default corpus as a file: `python -m data.wikipedia_excerpt --out documents.jsonl`."""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pre_process.corpus import describe, documents, fingerprint
from pre_process.files import write_atomic


def main(argv: Sequence[str] | None = None) -> int:
    """Write one {"title": …, "text": …} a line and say how much it is; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m data.wikipedia_excerpt", description=__doc__)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.jsonl")
    out = parser.parse_args(argv).out
    try:
        texts = list(documents(None))
        content = b"".join(_line(text) for text in texts)
        write_atomic(out, content)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{describe(None)} → {out}")
    print(f"documents   {len(texts):,}")
    print(f"words       {sum(len(text.split()) for text in texts):,}")
    print(f"characters  {sum(map(len, texts)):,}")
    print(f"sha256      {hashlib.sha256(content).hexdigest()} (of this file)")
    print(f"source      {fingerprint(None)} (of the dump and the cleaning version)")
    return 0


def _line(text: str) -> bytes:
    return msgspec.json.encode({"title": text.partition("\n")[0], "text": text}) + b"\n"


if __name__ == "__main__":
    sys.exit(main())
