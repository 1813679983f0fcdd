"""Floor 3. Where the kernels stand, by name, and where what is made of them is kept."""

import functools
import hashlib
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from pre_process.files import write_atomic

FOLDER = Path(__file__).parent
TYPES = ("f32", "bf16", "f16")  # a kernel's name ends in the type that it stores numbers in
_DEFINITION = re.compile(r"^\s*NK_(?!KERNEL|DEV|SHARED|DYNAMIC)[A-Z0-9_]+\((\w+)", re.MULTILINE)


def families() -> list[Path]:
    """All .cu files, by name."""
    return sorted(FOLDER.glob("*.cu"))


@functools.cache
def _definitions() -> dict[str, Path]:
    return {name: path for path in families() for name in _DEFINITION.findall(path.read_text(encoding="utf-8"))}


@functools.cache
def source_of(kernel: str) -> Path:
    """The file that defines `kernel`: NK_EXPORT(name) makes one kernel, NK_FLOATS(name, …) name_f32, name_bf16, ….

    So the kernel's name without some of its last words is what stands in the source. Raises ValueError.
    """
    words = kernel.split("_")
    for end in range(len(words), 0, -1):
        if (path := _definitions().get("_".join(words[:end]))) is not None:
            return path
    raise ValueError(f"no .cu file in {FOLDER} defines the kernel {kernel!r}")


def digest(source: Path, *more: str) -> str:
    """Sixteen hexadecimal digits that change with the source, with any header, and with `more`: options, versions."""
    content = b"".join(path.read_bytes() for path in [source, *sorted(FOLDER.glob("*.h"))])
    return hashlib.sha256(b"\0".join([content, *(part.encode() for part in more)])).hexdigest()[:16]


def kept(name: str, make: Callable[[], bytes]) -> Path:
    """The file `name` among the user's compiled CUDA kernels; made by `make` if it is not there yet.

    Two processes that make it at the same time both do the work, and one of the equal results stays.
    """
    path = cache_folder() / name
    if not path.exists():
        content = make()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)
        except OSError:  # no room, or not ours to write: for this run alone, then
            path = Path(_temporary_folder().name) / name
            path.write_bytes(content)
    return path


def cache_folder() -> Path:
    """Where compiled CUDA kernels are kept; whatever stands in it may be deleted."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("nanograd", appauthor=False)) / "cuda-kernels"


@functools.cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="nanograd-cuda-kernels-")
