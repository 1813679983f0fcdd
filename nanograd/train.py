"""Floor 6. Train a decoder language model: python -m nanograd.train

With no flags: the embedded Wikipedia excerpt, a small decoder, about three minutes on two cores. The run folder then
holds the model, its tokenizer, metrics.jsonl and loss.png; `python -m nanograd.sample RUN` continues any text with it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from nanograd import backend, kernels, terminal
from nanograd.config import ConfigError, from_command_line, peek
from nanograd.event_file import check_installed
from nanograd.io.run_folder import run_folder
from nanograd.mixing import prepare_all
from nanograd.profile import check_trace_path
from nanograd.resume import Earlier, check_data, check_settings, earlier_run
from nanograd.settings import PRESETS, TrainConfig, check_cuda_graph, check_frozen, check_precision
from nanograd.train_report import announce_memory, describe
from nanograd.training_run import TrainingRun
from nanograd.warm_up import compiled_kernels

ABOUT = (__doc__ or "").removeprefix("Floor 6. ")
BARE = {"--profile": "", "--resume": "newest"}  # what these flags mean without a value


def main(argv: Sequence[str] | None = None) -> int:
    """Parse settings, prepare text, train, save. Returns the exit code; raises ValueError and OSError on bad input."""
    terminal.configure_logging()
    asked = peek(argv, "resume", "out", bare=BARE)
    with terminal.save_requests_ignored(), earlier_run(asked["resume"], asked["out"]) as earlier:
        base = None if earlier is None else earlier.config
        config = from_command_line(PRESETS, argv, prog="python -m nanograd.train", about=ABOUT, bare=BARE, base=base)
        if config.resume and asked["resume"] is None:
            raise ConfigError("--resume belongs on the command line: a file of settings makes any number of runs")
        config = checked(config)
        backend.keep_freed_memory()
        if config.dry_run:
            describe(config)
            return 0
        if earlier is None:
            with run_folder(config.out, preset=config.preset) as out:
                return run(config, out)
        check_settings(earlier, config)
        return run(config, earlier.run, earlier)


def checked(config: TrainConfig) -> TrainConfig:
    """What the settings mean on this machine. Raises ValueError for what contradicts itself or cannot run here."""
    config = msgspec.structs.replace(config, optim=config.optim.resolved(accumulate=config.accumulate))
    check_frozen(config)
    check_precision(config)
    config = msgspec.structs.replace(config, device=terminal.chosen_device(config.device))
    check_cuda_graph(config)
    kernels.check_matmul_precision(config.matmul_precision, config.device)
    kernels.check_attention_kernel(config.attention_kernel, config.device)
    if config.tensorboard:
        check_installed()
    return config


def run(config: TrainConfig, out: Path, earlier: Earlier | None = None) -> int:
    """Prepare text and train in the folder `out`, from the start or from where an earlier run has come."""
    terminal.configure_logging(out / "train.log")
    check_trace_path(config.profile)  # it may lie in the run folder
    needed = config if earlier is None else msgspec.structs.replace(config, init="random")  # the checkpoint has them
    with compiled_kernels(config):
        prepared = prepare_all(needed, terminal.progress_bar)
    announce_memory(config)
    training = TrainingRun(config, prepared, out)
    if earlier is not None:
        check_data(earlier, prepared, config)
        training.restore(earlier)
    return training.train()


if __name__ == "__main__":
    sys.exit(terminal.run(main))
