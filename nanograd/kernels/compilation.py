"""Floor 3. Where compiled code is kept, and other processes that compile it while this one prepares the text.

A run needs some twenty kernels, and Numba compiles on one core. So two processes each take one small training step,
each with one half of the kernels and the formulas for everything else. What they have finished is read from disk.
"""

import atexit
import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

PARTS = {
    "attention and norms": (
        "activation",
        "attention",
        "dropout",
        "head_norm",
        "indexing",
        "normalization",
        "rotary",
        "softmax",
    ),
    "products": (
        "gemm",
        "loss",
        "matrix",
        "mlp",
        "optim",
        "quantized",
    ),  # muon's iteration shares its products with the others
}  # which files in cpu/: about as many seconds each
ROOM = 20_000_000  # bytes that all compiled kernels take, with something to spare


def cache_folder() -> Path:
    """Where compiled code is kept, under a name that changes with any of the sources.

    Numba itself compares a kernel's own file only: a change in a file that the kernel calls would go unseen.
    """
    import platformdirs

    sources = b"".join(path.read_bytes() for path in sorted((Path(__file__).parent / "cpu").glob("*.py")))
    name = f"kernels-{hashlib.sha256(sources).hexdigest()[:16]}"
    return Path(platformdirs.user_cache_dir("nanograd", appauthor=False)) / name


@functools.cache
def code_folder() -> Path:
    """NUMBA_CACHE_DIR if the user has set it, else the cache folder; where that can't be used, a new temporary one."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    folder = Path(chosen) if chosen else cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            if shutil.disk_usage(folder).free >= ROOM:
                return folder
    except OSError:
        pass
    if chosen:
        log.warning("NUMBA_CACHE_DIR=%s has no room or can't be written: compiled kernels last this run only", chosen)
    temporary = tempfile.mkdtemp(prefix="nanograd-kernels-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)  # nobody else will ever look for it
    return Path(temporary)


class Compilation:
    """The processes that compile, from the start to `wait` or `kill`. They also end when this process does."""

    def __init__(self, commands: dict[str, list[str]]) -> None:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(code_folder())}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        self.processes: dict[str, Any] = {}  # of subprocess.Popen
        try:
            for part, command in commands.items():
                self.processes[part] = subprocess.Popen(command, env=environment, **pipes)  # type: ignore[call-overload]
        except OSError:
            self.kill()  # the first, if it is the second that could not be started
            raise

    def wait(self) -> None:
        """Until all have ended. What one of them could not compile is compiled here, when it is first needed."""
        for part, process in self.processes.items():
            with process:  # closes the pipes, and waits
                *_, why = process.stderr.read().decode(errors="replace").splitlines() or ["it said nothing"]
                code = process.wait()
            if code:
                log.warning("compiling %s elsewhere failed (exit code %d: %s), so it is done here", part, code, why)

    def kill(self) -> None:
        """End them now, if they are still at work."""
        for process in self.processes.values():
            with process:
                process.kill()


def compile_elsewhere(kind: str) -> Compilation | None:
    """Start compiling in other processes what a run needs; None if that was done before.

    kind  of run: JSON of a nanograd.warm_up.Kind
    """
    parts = [part for part in PARTS if not _mark(part, kind).exists()]
    module = [sys.executable, "-m", "nanograd.warm_up", kind]
    try:
        return Compilation({part: [*module, part] for part in parts}) if parts else None
    except OSError as error:  # no process can be started, say: then this one compiles what it meets
        log.warning("kernels can't be compiled in another process: %s", error)
        return None


def note_compiled(part: str, kind: str) -> None:
    """Leave a mark for `compile_elsewhere`: this part was compiled for a run of this kind."""
    with contextlib.suppress(OSError):  # then Numba could not keep its code here either
        _mark(part, kind).touch()


def _mark(part: str, kind: str) -> Path:
    key = json.dumps([cache_folder().name, part, _outline(json.loads(kind))], sort_keys=True)
    return code_folder() / f"compiled-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _outline(settings: Any) -> Any:
    """What asks for other kernels: whether there is dropout, say, and not how much or in how wide a model."""
    if isinstance(settings, dict):
        return {name: _outline(value) for name, value in settings.items()}
    return bool(settings) if isinstance(settings, (int, float)) else settings
