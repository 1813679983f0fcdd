"""What a device refuses at a launch and the emulator would take: the limits of every GPU from sm_80 on.

Source: CUDA C++ Programming Guide 13.0, table of technical specifications per compute capability
"""

import functools
import math
import re
from pathlib import Path

from nanograd.kernels.cuda.emulation import EmulationError
from nanograd.kernels.cuda.resources import read_table
from nanograd.kernels.cuda.sources import TYPES, families

MOST_BLOCKS = 2**31 - 1, 65_535, 65_535  # along the axes of a grid
MOST_THREADS = 1024, 1024, 64  # along the axes of a block
SHARED = 99 * 1024  # bytes for a block, static and dynamic, on sm_86, 89 and 120; 163 KB or more on the others
TABLE = Path(__file__).with_name("resources.tsv")

_MACRO = re.compile(r"^NK_(FLOATS|HALVES)\((\w+),\s*([^,]+),", re.MULTILINE)
_BOUNDED = re.compile(r"__launch_bounds__\(([^,)]+)[^)]*\)\s*(\w+)\(")
_CONSTANTS = re.compile(r"^constexpr int (.*);", re.MULTILINE)
_CONSTANT = re.compile(r"(\w+) = (\d+)\b")


def check(kernel: str, grid: tuple[int, ...], block: tuple[int, ...], shared: int) -> None:
    """Raise EmulationError if no device, or not every one, would start this."""
    static, most_threads = static_shared().get(kernel, 0), bounds()[kernel]
    wrong = {
        f"{grid} blocks": any(n > most for n, most in zip(grid, MOST_BLOCKS, strict=True)),
        f"{block} threads": any(n > most for n, most in zip(block, MOST_THREADS, strict=True)),
        f"{block} threads, compiled for {most_threads}": math.prod(block) > most_threads,
        f"{shared} + {static} bytes of shared memory": shared + static > SHARED,
    }
    for what in (what for what, is_wrong in wrong.items() if is_wrong):
        raise EmulationError(f"{kernel}: no device takes {what}")


@functools.cache
def static_shared() -> dict[str, int]:
    """Bytes of static shared memory of each kernel, by the committed table: the most on any architecture."""
    _, rows = read_table(TABLE.read_text(encoding="utf-8"))
    return {row.kernel: row.shared for row in sorted(rows, key=lambda row: row.shared)}


@functools.cache
def bounds() -> dict[str, int]:
    """The most threads that each kernel is compiled for: __launch_bounds__."""
    return dict(pair for path in families() for pair in _bounds_of(path.read_text(encoding="utf-8")))


def _bounds_of(text: str) -> list[tuple[str, int]]:
    constants = {name: int(value) for line in _CONSTANTS.findall(text) for name, value in _CONSTANT.findall(line)}

    def number(product: str) -> int:
        return math.prod(constants.get(factor) or int(factor) for factor in product.split(" * "))

    single = [(kernel, number(most)) for most, kernel in _BOUNDED.findall(text)]
    typed = [
        (f"{name}_{kind}", number(most))
        for macro, name, most in _MACRO.findall(text)
        for kind in (TYPES if macro == "FLOATS" else TYPES[1:])
    ]
    return [*single, *typed]
