"""Floor 3. Faster twins of the formulas in nanograd/ops, under the same file names: cpu/ in Numba.

Importing nanograd loads none of this. `load()` does, and from then on operations on float32 arrays run the twins where
they can. The first process on a machine compiles them, for about half a minute; the compiled code is kept on disk.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from nanograd import backend


def load() -> None:
    """Import the twins and switch them on, unless NANOGRAD_KERNELS=0 says otherwise.

    Waiting threads sleep: by default OpenMP's spin, and beside any other busy process every parallel region stalls.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when Numba starts its first parallel region
    from nanograd.kernels.cpu import (
        activation,
        attention,
        dropout,
        indexing,
        loss,
        matrix,
        normalization,
        optim,
        softmax,
    )

    backend.use_kernels(True)


def cache_folder() -> Path:
    """Where compiled code is kept, under a name that changes with any of the sources.

    Numba itself compares a kernel's own file only: a change in a file that the kernel calls would go unseen.
    """
    import platformdirs

    sources = b"".join(path.read_bytes() for path in sorted((Path(__file__).parent / "cpu").glob("*.py")))
    name = f"kernels-{hashlib.sha256(sources).hexdigest()[:16]}"
    return Path(platformdirs.user_cache_dir("nanograd", appauthor=False)) / name


def compile_elsewhere(settings: str) -> "subprocess.Popen[bytes] | None":
    """Start compiling in another process what a run needs, and return it; None if that was done before.

    settings  JSON of a DecoderLMConfig. Wait for the process before the first step: code it has finished is read from
    disk, so the seconds it takes are hidden behind whatever happens in between.
    """
    if any(cache_folder().rglob("*.nbi")):
        return None
    command = [sys.executable, "-m", "nanograd.warm_up", settings]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
