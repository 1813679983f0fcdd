"""Contestants that take turns: each in a process of its own, because idle threads of one may spin on another's cores.

A machine that slows down then slows all of them. What they found goes into a file of JSON lines.
"""

import contextlib
import json
import multiprocessing
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nanograd import backend

SETTLE = 0.1  # seconds before each turn: idle threads spin for a while (OpenBLAS's for a fiftieth of a second)
WAKE_UP = 0.05  # seconds of work before what is short is timed
Answer = Callable[[Any], Any]  # question → answer
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUM_CPU_THREADS",
    "NPROC",
)


# After Ctrl-C, about semaphores of a contestant that was ended in the middle of something:
NO_COMPLAINT = "ignore::UserWarning:multiprocessing.resource_tracker"


class ContestantError(ValueError):
    """A contestant's process failed, or has ended: what it said, in one line."""


def set_threads(threads: int) -> None:
    """For the processes started from now on: OpenMP, BLAS, Numba, tinygrad (the fifth name) and XLA (the last)."""
    for name in THREADS:
        os.environ[name] = str(threads)


@contextlib.contextmanager
def processes(prepare: Callable[..., Answer], contestants: Sequence[str], *arguments: Any) -> Iterator["Lines"]:
    """Start `prepare(contestant, *arguments)` for each, in a process that then answers questions: see `ask`."""
    os.environ.setdefault("PYTHONWARNINGS", NO_COMPLAINT)
    context, lines, servers = multiprocessing.get_context("spawn"), {}, []
    for contestant in contestants:
        lines[contestant], theirs = context.Pipe()
        servers.append(context.Process(target=_serve, args=(prepare, (contestant, *arguments), theirs), daemon=True))
        servers[-1].start()
        theirs.close()
    patience = 0.0
    try:
        yield lines
        patience = 5.0
    finally:
        for line in lines.values():
            line.close()  # an idle contestant ends by itself
        for server in servers:
            server.join(patience)
            server.terminate()
            server.join()


Lines = dict[str, Connection]


def ask(contestant: str, line: Connection, question: Any) -> Any:
    """The contestant's answer. Raises ContestantError if its process fails."""
    settle()
    try:
        line.send(question)
        error, answer = line.recv()
    except (EOFError, OSError):
        raise ContestantError(
            f"{contestant} has stopped: its own message stands above, or the system killed it"
        ) from None
    if error is not None:
        raise ContestantError(f"{contestant}: {error}")
    return answer


def settle() -> None:
    """Wait until the threads of the contestant before sleep, or they would take the next one's cores."""
    time.sleep(SETTLE)


def wake_up(run: Callable[[], Any]) -> None:
    """Run it for a while, untimed: a virtual machine's core that slept is slow to come back, some 20 ms and more."""
    start = time.perf_counter()
    while time.perf_counter() - start < WAKE_UP:
        run()


def _serve(prepare: Callable[..., Answer], arguments: tuple[Any, ...], line: Connection) -> None:
    """A contestant's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks; it ends this one
    answer = None
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # nobody asks any more
        while True:
            question = line.recv()
            try:
                answer = answer or prepare(*arguments)
                reply = None, answer(question)
            except Exception as error:  # whatever a library fails with, the one who asks shall hear of it
                reply = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", None
            line.send(reply)


def milliseconds(run: Callable[[], Any]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def is_installed(*modules: str) -> bool:
    """Whether all of these can be imported."""
    return all(find_spec(module) for module in modules)


def machine() -> str:
    """The processor and the number of its cores that this process may see."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def check_kernels() -> None:
    """Raise ValueError where formulas would be measured under the name of the kernels."""
    if not backend.kernels_allowed():
        raise ValueError("NANOGRAD_KERNELS=0 or NUMBA_DISABLE_JIT=1 keeps the kernels off that are to be measured")


def check_appendable(path: Path | None) -> None:
    """Raise OSError before minutes of measuring, not after."""
    if path is None:
        return
    existed = path.exists()
    path.open("a").close()
    if not existed:
        path.unlink()


def append(path: Path | None, records: Sequence[dict[str, Any]]) -> None:
    """One JSON line for each record at the end of the file."""
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)


def read(path: Path) -> list[dict[str, Any]]:
    """What `append` wrote. Raises ValueError in one line if that is not what the file holds."""
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError:
        records = []
    if not records or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{path} holds no measurement: name a file that --json wrote")
    return records


def say(text: str) -> None:
    """A line of progress, on standard error: standard output is for results."""
    print(text, file=sys.stderr, flush=True)
