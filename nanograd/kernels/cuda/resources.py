"""Floor 3. What each kernel takes on each architecture: registers, shared memory, spills.

python -m nanograd.kernels.cuda.resources            compile all kernels and print the table
python -m nanograd.kernels.cuda.resources --write    … and write it to tests/kernels_cuda/resources.tsv
"""

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

from nanograd.kernels.cuda import nvrtc
from nanograd.kernels.cuda.sources import digest, families, kept

ARCHITECTURES = ("sm_80", "sm_90a", "sm_100")
TABLE = Path("tests") / "kernels_cuda" / "resources.tsv"  # in a clone of the repository


class Resources(NamedTuple):
    """Of one kernel: registers for each thread, bytes of static shared memory for each block, bytes spilled."""

    kernel: str
    arch: str
    registers: int
    shared: int
    spilled: int


_ENTRY = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for '\w+'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def read_log(log: str, arch: str) -> list[Resources]:
    """The numbers in what ptxas says under --ptxas-options=-v. A stack frame counts as spilled: it is slow memory."""
    return [
        Resources(m["kernel"], arch, int(m["registers"]), _shared(m["rest"]), sum(map(int, m.group(2, 3, 4))))
        for m in _ENTRY.finditer(log)
    ]


def _shared(rest: str) -> int:
    found = re.search(r"(\d+) bytes smem", rest)
    return int(found[1]) if found else 0


def measure(source: Path, arch: str) -> list[Resources]:
    """All kernels of one file. Raises CompileError, also for anything that the compiler warns of."""
    name = f"{source.stem}-{arch}-{digest(source, arch, str(nvrtc.version()), *nvrtc.OPTIONS)}.log"
    log = kept(name, lambda: nvrtc.compile_cubin(source, arch).log.encode()).read_text(encoding="utf-8")
    if "warning" in log:
        raise nvrtc.CompileError(f"{source.name} for {arch}:\n{log}")
    return read_log(log, arch)


def all_resources() -> list[Resources]:
    """Every kernel on every architecture."""
    return [row for source in families() for arch in ARCHITECTURES for row in measure(source, arch)]


def as_table(rows: list[Resources], version: tuple[int, int]) -> str:
    """A line for each kernel: what it takes on each architecture as registers/shared/spilled, separated by tabs.

    NVRTC's version stands in the first line: another one distributes registers otherwise.
    """
    cells = {(row.kernel, row.arch): "/".join(map(str, row[2:])) for row in rows}
    names = sorted({row.kernel for row in rows})
    lines = ["\t".join([name, *(cells.get((name, arch), "-") for arch in ARCHITECTURES)]) for name in names]
    title = f"# NVRTC {version[0]}.{version[1]}: registers/shared bytes/spilled bytes"
    return "\n".join([title, "\t".join(["kernel", *ARCHITECTURES]), *lines]) + "\n"


def read_table(text: str) -> tuple[tuple[int, int], list[Resources]]:
    """What `as_table` wrote: NVRTC's version and the rows."""
    title, head, *lines = text.splitlines()
    major, minor = title.removeprefix("# NVRTC ").partition(":")[0].split(".")
    rows = [
        Resources(line.split("\t")[0], arch, *map(int, cell.split("/")))
        for line in lines
        for arch, cell in zip(head.split("\t")[1:], line.split("\t")[1:], strict=True)
    ]
    return (int(major), int(minor)), rows


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code, 2 for a kernel that doesn't compile or no NVRTC."""
    parser = argparse.ArgumentParser(prog="nanograd.kernels.cuda.resources", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"write the table to {TABLE}")
    options = parser.parse_args(argv)
    try:
        table = as_table(all_resources(), nvrtc.version())
        if options.write:
            TABLE.write_text(table, encoding="utf-8")
    except (nvrtc.CompileError, OSError) as error:
        print(f"resources: {error}", file=sys.stderr)
        return 2
    print(table, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
