"""Causal attention, forward and backward, at growing context: the formula, its twin in tiles, PyTorch where installed.

    python -m benchmarks.attention [--tokens 4096] [--heads 8] [--width 32] [--rounds 7] [--threads N]
    python -m benchmarks.attention --documents 100 [--alibi]      texts of 100 tokens on average in each row; ALiBi

The number of tokens stays the same, so all that should grow with the context T is attention's own arithmetic:
7 products of 2 T² D / 2 operations for each head, of which GFLOP/s are counted (with documents too, where most of them
need not be done: then they are no speed). PyTorch gets documents and ALiBi as a mask that is added to the scores.
Prints milliseconds (the median over rounds, the quickest in brackets). Every contestant has a process of its own,
because idle threads of one may spin on the cores of another; they take turns, so that a machine that slows down slows
all of them.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from benchmarks.turns import settle, wake_up
from pre_process.encode_position import alibi_slopes

CONTEXTS = 64, 128, 256, 512, 1024, 2048, 4096
LONGEST_FOR_THE_FORMULA = 1024  # beyond, its T × T matrices fill the memory of a small machine
CALLS = 2  # in a turn
Times = dict[tuple[int, str], list[float]]  # (T, contestant) → milliseconds


class Sizes(NamedTuple):
    """What does not change while T grows."""

    tokens: int  # B · T
    heads: int
    width: int  # of a head
    document: int = 0  # tokens in a text, on average; 0: a row is one text
    alibi: bool = False

    def arrays(self, T: int) -> tuple[np.ndarray, np.ndarray]:
        """qkv and dy: (B, T, 3C) and (B, T, C)"""
        rng, B, C = np.random.default_rng(0), max(1, self.tokens // T), self.heads * self.width
        return rng.standard_normal((B, T, 3 * C), np.float32), rng.standard_normal((B, T, C), np.float32)

    def starts(self, T: int) -> np.ndarray | None:
        """(B, T): where each token's document begins."""
        if not self.document:
            return None
        begins = np.random.default_rng(1).random((max(1, self.tokens // T), T)) < 1 / self.document
        return np.maximum.accumulate(np.where(begins, np.arange(T), 0), axis=1)

    def slopes(self) -> tuple[float, ...] | None:
        """ALiBi's, or None."""
        return alibi_slopes(self.heads) if self.alibi else None

    def operations(self, T: int) -> float:
        """Multiplications and additions of two products forward and five backward, half of each masked away."""
        return 7 * max(1, self.tokens // T) * self.heads * T * T * self.width


def prepare(contestant: str, sizes: Sizes, T: int) -> Callable[[], Any]:
    """What a contestant does in one call."""
    qkv, dy = sizes.arrays(T)
    starts, slopes = sizes.starts(T), sizes.slopes()
    if contestant == "torch":
        return _with_torch(qkv, dy, sizes, _bias(starts, slopes, T))
    from nanograd import ops

    op, options = ops.packed_attention, {"n_heads": sizes.heads, "causal": True, "slopes": slopes}
    rule = op.formula if contestant == "formula" else op.twins[np][0]

    def run() -> None:
        _, saved = rule.forward(np, qkv, None, starts, **options)
        rule.backward(np, dy, *saved, needs=(True, False, False), **options)

    return run


def _bias(starts: np.ndarray | None, slopes: tuple[float, ...] | None, T: int) -> np.ndarray | None:
    """(B, H, T, T) float32, or with 1 for B or H: what documents and ALiBi add to the scores; None for nothing."""
    if starts is None and slopes is None:
        return None
    places = np.arange(T)
    visible = (places <= places[:, None]) & (
        places >= (np.zeros((1, T)) if starts is None else starts)[:, None, :, None]
    )
    bias = -np.array(slopes or (0.0,), np.float32)[:, None, None] * (places[:, None] - places).astype(np.float32)
    return np.where(visible, bias, -np.inf).astype(np.float32)


def _with_torch(qkv: np.ndarray, dy: np.ndarray, sizes: Sizes, bias: np.ndarray | None) -> Callable[[], Any]:
    import torch

    mask = None if bias is None else torch.from_numpy(bias)
    x, slope, (B, T, C) = torch.from_numpy(qkv).requires_grad_(), torch.from_numpy(dy), dy.shape

    def run() -> None:
        q, k, v = x.view(B, T, 3, sizes.heads, sizes.width).permute(2, 0, 3, 1, 4)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None)
        torch.autograd.grad(y.transpose(1, 2).reshape(B, T, C), x, slope)

    return run


def serve(contestant: str, sizes: Sizes, threads: int, connection: Connection) -> None:
    """A contestant's process: for each T it receives, it runs CALLS times and answers milliseconds."""
    if contestant == "torch":
        import torch

        torch.set_num_threads(threads)
    else:
        from nanograd import backend
        from nanograd.kernels.cpu import attention  # noqa: F401

        backend.keep_freed_memory()
    while (T := connection.recv()) is not None:
        run = prepare(contestant, sizes, T)
        wake_up(run)
        connection.send([_milliseconds(run) for _ in range(CALLS)])


def _milliseconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def measure(contestants: list[str], sizes: Sizes, rounds: int, threads: int) -> Times:
    """Milliseconds of each contestant at each T, in turns."""
    context, lines = multiprocessing.get_context("spawn"), {}
    for contestant in contestants:
        lines[contestant], theirs = context.Pipe()
        context.Process(target=serve, args=(contestant, sizes, threads, theirs), daemon=True).start()
    turns = [(T, c) for T in CONTEXTS for c in contestants if c != "formula" or T <= LONGEST_FOR_THE_FORMULA]
    times: Times = {turn: [] for turn in turns}
    for _ in range(rounds):
        for T, contestant in turns:
            settle()
            lines[contestant].send(T)
            times[T, contestant] += lines[contestant].recv()
    for line in lines.values():
        line.send(None)
    return times


def show(times: Times, contestants: list[str], sizes: Sizes) -> None:
    """The table on the terminal."""
    others = [contestant for contestant in contestants if contestant != "twin"]
    print(f"{sizes.tokens} tokens, {sizes.heads} heads of width {sizes.width}; ms forward + backward: median (best)")
    print("    T" + "".join(f"{c:>18}" for c in contestants) + "".join(f"{o + ' / twin':>16}" for o in others), end="")
    print(f"{'twin GFLOP/s':>14}")
    for T in CONTEXTS:
        found = {c: times[T, c] for c in contestants if (T, c) in times}
        ms = {c: statistics.median(values) for c, values in found.items()}
        cells = [f"{ms[c]:.1f} ({min(found[c]):.1f})" if c in ms else "" for c in contestants]
        ratios = [f"{ms[o] / ms['twin']:.2f} ×" if o in ms else "" for o in others]
        speed = sizes.operations(T) / min(found["twin"]) / 1e6
        print(f"{T:5}" + "".join(f"{x:>18}" for x in cells) + "".join(f"{x:>16}" for x in ratios) + f"{speed:14.0f}")


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096, help="sequences × context (default 4096)")
    parser.add_argument("--heads", type=int, default=8, help="default 8")
    parser.add_argument("--width", type=int, default=32, help="of a head (default 32)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contestant (default 7)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--documents", type=int, default=0, help="tokens of a text, on average (0: a row is one text)")
    parser.add_argument("--alibi", action="store_true", help="scores fall with distance")
    arguments = parser.parse_args(argv)
    for variable in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(arguments.threads)
    contestants = ["formula", "twin", *(["torch"] if find_spec("torch") else [])]
    sizes = Sizes(arguments.tokens, arguments.heads, arguments.width, arguments.documents, arguments.alibi)
    show(measure(contestants, sizes, arguments.rounds, arguments.threads), contestants, sizes)


if __name__ == "__main__":
    main()
