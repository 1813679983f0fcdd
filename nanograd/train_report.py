"""Floor 5. What a training run says before and after: the plan of --dry-run, and the table of what was reached."""

import logging
import math
import shlex
import sys
from pathlib import Path
from typing import Any

from nanograd import terminal
from nanograd.config import to_toml
from nanograd.io.run_checkpoints import best_checkpoint
from nanograd.memory import PREPARING, WORD_VECTORS, MemoryPlan, left_behind, plan_memory
from nanograd.mixing import first_text
from nanograd.models import count_parameters
from nanograd.prepare import token_folder
from nanograd.settings import TrainConfig

log = logging.getLogger(__name__)


def describe(config: TrainConfig) -> None:
    """What --dry-run prints: settings, parameters, tokens, memory."""
    folder = token_folder(first_text(config))
    to_prepare = PREPARING + (WORD_VECTORS if config.init == "word2vec" else 0)
    memory = _plan(config, 0 if folder.is_dir() else to_prepare)
    per_step = config.accumulate * config.batch_size * config.model.context_length
    print(to_toml(config))
    rows = {
        "parameters": f"{count_parameters(config.model):,}",
        "tokens": f"{per_step:,} a step, {config.steps * per_step:,} in {config.steps:,} steps",
        "memory": _told(config, memory),
        "prepared text": f"{folder} ({'there' if folder.is_dir() else 'will be made'})",
    }
    _print_table("dry run: nothing was written", rows)


def announce_memory(config: TrainConfig) -> None:
    """Say, before the first step, what a run on the CPU will hold."""
    if config.device == "cpu":
        plan = _told(config, _plan(config, left_behind()))
        log.info("memory plan: %s", plan)
        terminal.console().print(f"memory plan: {plan}", markup=False, soft_wrap=True)  # whoever listens, or nobody


def _told(config: TrainConfig, plan: MemoryPlan) -> str:
    """The plan; in 16 bits on the CPU, what is known instead: plain formulas keep more than is foreseen."""
    if config.device != "cpu" or config.precision == "float32":
        return str(plan)
    return (
        f"not foreseen for --precision {config.precision} on the CPU, whose plain formulas keep attention's weights "
        f"and whole chunks of logits; in float32 about {plan.total / 1e6:,.0f} MB"
    )


def _plan(config: TrainConfig, more: float) -> MemoryPlan:
    again = config.recompute_blocks
    return plan_memory(config.model, config.batch_size, recompute_blocks=again, optim=config.optim, left_behind=more)


def summarize(
    record: dict[str, Any],
    *,
    config: TrainConfig,
    out: Path,
    is_done: bool,
    val_loss: float | None,
    unigram_loss: float,
    bytes_per_token: float,
    parameters: str,
    skipped: int,
    overflows: int,
) -> None:
    """A table of what was reached, and what to do next.

    record    the last line of metrics.jsonl
    is_done   whether no step is to follow
    val_loss  the last one measured, if one was
    skipped   steps that were not taken; overflows: others, whose loss scale was too large
    """
    rows = {
        "training loss": "the last step was skipped"
        if record["loss"] is None
        else f"{record['loss']:.4f} nats per token (last step)",
        "validation loss": _validation(val_loss, bytes_per_token),
        "unigram model": f"{unigram_loss:.4f} nats per token (knows only how often each token occurs)",
        "tokens": f"{record['tokens']:,} in {record['seconds']:.0f} s = "
        f"{record['tokens'] / record['seconds']:,.0f} per second, evaluation and samples included",
        **({"skipped steps": f"{skipped:,}, marked in metrics.jsonl"} if skipped else {}),
        **({"loss scale": f"too large in {overflows:,} steps, which were skipped"} if overflows else {}),
        "parameters": parameters,
        "peak memory": f"{terminal.peak_memory_mb():,.0f} MB",
        "run folder": str(out),
        "best checkpoint": str(best_checkpoint(out) or "none was measured"),
    }
    log.info("finished: %s", rows)
    _print_table("done" if is_done else f"stopped at step {record['step']}, saved", rows)
    if not is_done:
        command = ["python", "-m", "nanograd.train", "--resume", "--out", str(out)]
    else:
        command = ["python", "-m", "nanograd.sample", str(out), f"--prompt={config.sample_prompt}"]
    print(f"next: {shlex.join(command)}", file=sys.stderr)


def _validation(loss: float | None, bytes_per_token: float) -> str:
    if loss is None:
        return "not measured yet"
    return f"{loss:.4f} nats per token = {loss / math.log(2) / bytes_per_token:.3f} bits per byte"


def _print_table(title: str, rows: dict[str, str]) -> None:
    from rich.table import Table

    table = Table("", "", title=title, show_header=False, title_justify="left")
    table.columns[1].overflow = "fold"
    for name, value in rows.items():
        table.add_row(name, value)
    terminal.console().print(table)
