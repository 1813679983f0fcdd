"""Floor 6. Check and measure everything on a GPU, in under nine minutes: python -m nanograd.gpucheck --out FOLDER

Ceilings of the card, parity of every operation, kernel and model with the CPU, graph capture, GPT-2 124M in training,
decoding, and PyTorch beside it on the same card. FOLDER gets gpucheck.json; a table comes last. What one step breaks,
the others go on without.
"""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from nanograd import backend, kernels, terminal
from nanograd.backend import ArrayModule
from nanograd.config import parse_flags
from nanograd.gpucheck import figures, history, kernel_table, measure, parity, training
from nanograd.gpucheck.budget import Figures, Outcome, Step, run_steps
from nanograd.kernels.cuda import compile as cuda_compile
from nanograd.kernels.cuda import sources
from nanograd.models import DecoderLMConfig
from nanograd.precision import float_type
from pre_process.files import write_atomic

ABOUT = (__doc__ or "").removeprefix("Floor 6. ")
LIMIT = 525.0  # seconds: nine minutes, less what Python needs to begin and to end


class CheckConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Check and measure everything on a GPU."""

    out: Annotated[str, msgspec.Meta(min_length=1)] = "runs/gpucheck"
    """folder for gpucheck.json; it is made, and an earlier file in it replaced"""
    device: str = "cuda"
    """cuda or cuda:N"""
    only: str | None = None
    """names of steps, with commas between them (None: all)"""
    history: bool = True
    """append the result to benchmarks/gpu_history.jsonl, if this is a clone"""


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How large everything is; tests take miniatures."""

    gpt2: DecoderLMConfig = training.GPT2
    gpt2_batch: int = 64
    gpt2_steps: int = 40
    small: DecoderLMConfig = training.SMALL
    small_batch: int = 16
    small_steps: int = 200
    decode_tokens: int = 200
    copy_bytes: int = measure.COPY
    square: int = measure.SQUARE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps, write the folder, print the table. Returns 0, or 1 if a step failed; raises DeviceError."""
    config = parse_flags(CheckConfig, argv, prog="python -m nanograd.gpucheck", about=ABOUT)
    terminal.configure_logging()
    backend.check_device(config.device)
    if config.device == "cpu":
        raise backend.DeviceError("gpucheck is for a GPU: give --device cuda")
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    check = Check(Sizes(), device=config.device)
    outcomes = run_steps(_chosen(check.steps(), config.only), limit=LIMIT, tell=_tell)
    record = history.new_record(
        {outcome.name: outcome.figures for outcome in outcomes if outcome.figures}, verified=_verified(outcomes)
    )
    steps = [outcome._asdict() for outcome in outcomes]
    write_atomic(out / "gpucheck.json", msgspec.json.format(msgspec.json.encode({**record, "steps": steps})) + b"\n")
    if config.history and history.HISTORY.parent.is_dir():
        history.append(record)
    show(outcomes)
    return int(any(outcome.state == "failed" for outcome in outcomes))


class Check:
    """The steps, and what the later ones need of the earlier ones."""

    def __init__(self, sizes: Sizes, *, device: str) -> None:
        self.sizes, self.device = sizes, device
        self.stream = backend.own_stream(device)
        self.xp: ArrayModule = backend.array_module(backend.to_device(backend.np.zeros(1), device))
        self.bandwidth = self.rate = 0.0
        self.peak: float | None = None

    def steps(self) -> list[Step]:
        """In the order of what is most worth knowing, should the time run out."""
        return [
            Step("device", 10, self.about),
            Step("kernels", 30, self.compile),
            Step("ceilings", 25, self.ceilings),
            Step("parity", 110, parity.gpu_tests),
            Step("equal training", 45, lambda _: dict(training.equal_training())),
            Step("gpt2", 70, self.gpt2),
            Step("kernel table", 50, self.table),
            Step("small model", 40, self.small),
            Step("decoding", 20, self.decoding),
            Step("pytorch gpt2", 110, functools.partial(self.peer, "gpt2")),
            Step("pytorch small", 60, functools.partial(self.peer, "small")),
            Step("sanitizer", 50, parity.sanitizer),
        ]

    def about(self, _: float) -> Figures:
        """Which card, driver and libraries; the twins are switched on."""
        about = measure.about_device(self.xp)
        self.peak = figures.peak_of(about["name"])
        return about

    def compile(self, _: float) -> Figures:
        """Every kernel file for this card, and the twins that launch them."""
        capability = int(self.xp.cuda.Device().compute_capability)
        arch = cuda_compile.architecture(capability)
        sizes = {path.name: cuda_compile.cubin(path, arch).stat().st_size for path in sources.families()}
        kernels.load(device=self.device)
        return {"arch": arch, "cubin_bytes": sizes}

    def ceilings(self, _: float) -> Figures:
        """Copy bandwidth and the rate of a large bf16 product."""
        self.bandwidth = measure.copy_bandwidth(self.xp, n_bytes=self.sizes.copy_bytes)
        square = self.sizes.square
        self.rate = measure.product_rate(self.xp, float_type("bf16"), rows=square, inner=square, columns=square)
        return {"copy_tb_per_s": self.bandwidth / 1e12, "product_tflops": self.rate / 1e12, "peak_tflops": self.peak}

    def gpt2(self, _: float) -> Figures:
        """GPT-2 124M in bf16."""
        s = self.sizes
        found = training.speed(
            self.xp, s.gpt2, batch_size=s.gpt2_batch, precision="bf16", record=False, steps=s.gpt2_steps
        )
        peak = self.peak or self.rate
        mfu = figures.model_flops_utilization(s.gpt2, found["tokens_per_second"], peak) if peak else {}
        return {**found, **mfu}

    def table(self, _: float) -> Figures:
        """Each hot operation at GPT-2's shapes. Raises RuntimeError without the ceilings."""
        if not (self.bandwidth and self.rate):
            raise RuntimeError("the ceilings are not known: that step failed or was left out")
        s = self.sizes
        rows = kernel_table.table(
            self.xp, s.gpt2, s.gpt2_batch, float_type("bf16"), bandwidth=self.bandwidth, rate=self.rate
        )
        return {"rows": rows}

    def small(self, _: float) -> Figures:
        """A model whose step is bound by launches: launch by launch, and as one graph."""
        s = self.sizes
        return {
            name: training.speed(
                self.xp, s.small, batch_size=s.small_batch, precision="bf16", record=record, steps=s.small_steps
            )
            for name, record in {"eager": False, "graph": True}.items()
        }

    def decoding(self, _: float) -> Figures:
        """Tokens per second of one text."""
        return {
            "tokens_per_second": training.decoding_speed(
                self.sizes.gpt2, tokens=self.sizes.decode_tokens, device=self.device
            )
        }

    def peer(self, shape: str, seconds: float) -> Figures:
        """PyTorch in a process of its own, with the memory that we no longer need."""
        self.xp.get_default_memory_pool().free_all_blocks()
        return parity.peer(seconds, shape)


def _chosen(steps: Sequence[Step], only: str | None) -> list[Step]:
    if only is None:
        return list(steps)
    names = [name.strip() for name in only.split(",")]
    if unknown := [name for name in names if name not in {step.name for step in steps}]:
        raise ValueError(f"--only: {unknown[0]!r} is no step; there are {', '.join(step.name for step in steps)}")
    return [step for step in steps if step.name in names]


def _verified(outcomes: Sequence[Outcome]) -> bool:
    return any(outcome.name == "parity" and outcome.state == "ok" for outcome in outcomes)


def _tell(outcome: Outcome) -> None:
    said = f"{outcome.name}: {outcome.state}, {outcome.seconds:.1f} s"
    print(f"{said}: {outcome.why}" if outcome.why else said, file=sys.stderr, flush=True)


def show(outcomes: Sequence[Outcome]) -> None:
    """The table: what each step found, in a line; the kernels one below the other."""
    from rich.table import Table

    table = Table("step", "", "s", "found", title="gpucheck", title_justify="left")
    for outcome in outcomes:
        found = outcome.why or ", ".join(_brief(outcome.figures))
        table.add_row(outcome.name, outcome.state, f"{outcome.seconds:.0f}", found)
    screen = terminal.console()
    screen.print(table)
    for row in next((o.figures["rows"] for o in outcomes if "rows" in o.figures), ()):
        share = "–" if row["share"] is None else f"{row['share']:.0%}"
        screen.print(f"{row['kernel']:34} {row['us']:10,.1f} µs, floor {row['floor_us']:10,.1f} µs, {share}")


def _brief(found: Mapping[str, Any], prefix: str = "") -> list[str]:
    """'name 1.23' for each number in there, of nested ones too; text as it is; lists and long tables left out."""
    said: list[str] = []
    tellers: dict[type, Callable[[Any], str]] = {float: lambda x: f"{x:,.4g}", int: str, bool: str, str: str}
    for name, value in found.items():
        if isinstance(value, Mapping) and name != "cubin_bytes":
            said += _brief(value, f"{prefix}{name} ")
        elif type(value) in tellers:
            said.append(f"{prefix}{name} {tellers[type(value)](value)}")
    return said


if __name__ == "__main__":
    sys.exit(terminal.run(main))
