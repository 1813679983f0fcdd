"""`python -m pre_process.encode_position draw KIND --out FILE.png`: what each way of saying a position looks like."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from pre_process.encode_position.learned import learned
from pre_process.encode_position.plot import draw_alibi, draw_all, draw_learned, draw_rotary, draw_sinusoidal
from pre_process.encode_position.rotary_scaling import Kind, Scaling
from pre_process.encode_position.sinusoidal import load_positions
from pre_process.terminal import run_command

_LARGEST = 1e12  # on an axis


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code, see `run_command`."""
    arguments = _parser().parse_args(argv)
    return run_command(lambda: _draw(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pre_process.encode_position", description="positions as pictures")
    draw = parser.add_subparsers(required=True, metavar="COMMAND").add_parser("draw", help="one kind as a picture")
    kinds = draw.add_subparsers(dest="kind", required=True, metavar="KIND")
    sines = _add_kind(kinds, "sinusoidal", "the table, its columns as waves, and how alike its rows are")
    sines.add_argument("--context-length", type=int, default=128, metavar="T", help="positions (128)")
    sines.add_argument("--d-model", type=int, default=64, metavar="C", help="width of a vector (64)")
    table = _add_kind(kinds, "learned", "a table of vectors and how alike they are")
    table.add_argument(
        "--table", type=Path, metavar="FILE", help="model.safetensors of a run, or .npy (random vectors)"
    )
    rotary = _add_kind(kinds, "rotary", "hands of clocks, their speeds, and q · k by distance")
    rotary.add_argument("--d-head", type=int, default=32, metavar="D", help="width of a head (32)")
    rotary.add_argument("--base", type=float, default=10_000.0, metavar="X", help="the slowest hand's (10000)")
    rotary.add_argument("--scaling", choices=get_args(Kind), default="none", help="for longer contexts (none)")
    rotary.add_argument("--factor", type=float, metavar="X", help="of the scaling (4)")
    rotary.add_argument("--original-context", type=int, metavar="T", help="trained on (128)")
    alibi = _add_kind(kinds, "alibi", "what scores lose by distance, head by head")
    alibi.add_argument("--heads", type=int, default=8, metavar="H", help="attention heads (8)")
    alibi.add_argument("--context-length", type=int, default=64, metavar="T", help="positions (64)")
    _add_kind(kinds, "all", "the ways beside each other")
    return parser


def _add_kind(
    kinds: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, about: str
) -> argparse.ArgumentParser:
    parser = kinds.add_parser(name, help=about)
    parser.add_argument("--out", type=_picture, required=True, metavar="FILE", help="ends in .png, .svg or .pdf")
    return parser


def _picture(name: str) -> Path:
    if Path(name).suffix not in (".png", ".svg", ".pdf"):
        raise argparse.ArgumentTypeError(f"{name} must end in .png, .svg or .pdf")
    return Path(name)


def _draw(a: argparse.Namespace) -> None:
    if a.kind == "sinusoidal":
        draw_sinusoidal(a.out, context_length=_at_least(a.context_length, 2), d_model=a.d_model)
    elif a.kind == "learned":
        draw_learned(a.out, _table(a.table) if a.table else learned(128, 64, rng=np.random.default_rng(0)))
    elif a.kind == "all":
        draw_all(a.out)
    elif a.kind == "alibi":
        draw_alibi(a.out, n_heads=a.heads, context_length=_at_least(a.context_length, 2))
    else:
        draw_rotary(a.out, d_head=a.d_head, base=_at_most("base", a.base), scaling=_scaling(a))


def _scaling(a: argparse.Namespace) -> Scaling | None:
    if a.scaling == "none":
        if a.factor is not None or a.original_context is not None:
            raise ValueError("--factor and --original-context belong to a --scaling: name one")
        return None
    factor = 4.0 if a.factor is None else _at_most("factor", a.factor)
    return Scaling(a.scaling, factor, 128 if a.original_context is None else a.original_context)


def _at_most(name: str, number: float) -> float:
    if not number <= _LARGEST:
        raise ValueError(f"--{name} {number}: a picture has room for numbers up to {_LARGEST:g}")
    return number


def _at_least(positions: int, least: int) -> int:
    if positions < least:
        raise ValueError(f"--context-length {positions}: a picture needs {least} positions")
    return positions


def _table(path: Path) -> np.ndarray:
    """Learned positions from a file. Raises ValueError if it holds none."""
    if path.suffix != ".safetensors":
        return load_positions(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            if "positions.weight" in names:
                table: np.ndarray = file.get_tensor("positions.weight")
                return table
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    raise ValueError(f"{path} holds no learned positions: train with --positions learned")


if __name__ == "__main__":
    sys.exit(main())
