"""Floor 5. What --resume finds: the newest whole checkpoint of a run, its settings, and what must not have changed."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nanograd.config import ConfigError, changed, differences, read_toml
from nanograd.io.run_checkpoints import Manifest, newest_valid
from nanograd.io.run_folder import clean_up, forget_unsaved, held
from nanograd.io.training_state import TrainingState, environment, read_state
from nanograd.prepare import Prepared
from nanograd.settings import TrainConfig

log = logging.getLogger(__name__)

FREE = {
    "config", "cuda_graph", "out", "profile", "dry_run", "resume", "resume_changed", "pause_at", "on_save_error",
    "checkpoint_every", "keep", "keep_every", "sample_every", "sample_prompt", "sample_tokens", "text.cache",
    "loader.prefetch", "tensorboard", "optim.max_bad_steps", "data", "pre_process", "patience",
    "checkpoint_minutes",
}  # fmt: skip
"""Settings that change nothing of what is computed: a resumed run may have others.

Text and tokenizer are compared by their hashes, in `check_data`: they may lie elsewhere by now.
"""


class Earlier(NamedTuple):
    """The part of a run that is done: its folder, the checkpoint to go on from and what it says."""

    run: Path
    checkpoint: Path
    manifest: Manifest
    state: TrainingState
    config: TrainConfig


@contextlib.contextmanager
def earlier_run(mode: str | None, out: str | None) -> Iterator[Earlier | None]:
    """What `--resume MODE --out RUN` goes on from, held by this process; None to start afresh.

    Raises ValueError if there is nothing to resume, another process trains there, or every checkpoint is damaged.
    """
    if mode in (None, "None"):  # the word takes a setting back, as it does everywhere
        yield None
        return
    if out is None:
        raise ConfigError("--resume needs --out: the folder of the run that is to go on")
    run = Path(out)
    if not run.is_dir():
        if mode != "auto":
            raise ConfigError(f"--resume: {run} is not a folder; --resume auto would start afresh")
        yield None
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(run))
        earlier = _open(run)
        if earlier is None and mode != "auto":
            raise ConfigError(f"--resume: {run} holds no checkpoint; --resume auto would start afresh")
        if earlier is None:
            forget_unsaved(run)
            stack.close()
        yield earlier


def _open(run: Path) -> Earlier | None:
    found = newest_valid(run)
    if found is None:
        return None
    clean_up(run)
    folder, manifest = found
    config = changed(TrainConfig(), read_toml(folder / "config.toml"))  # not the preset's defaults: those may change
    return Earlier(run, folder, manifest, read_state(folder), config)


def check_settings(earlier: Earlier, config: TrainConfig) -> None:
    """Raise ConfigError that lists what differs from the checkpoint's settings, unless --resume-changed allows it.

    More --steps are always allowed.
    """
    found = {path: pair for path, pair in differences(earlier.config, config).items() if path not in FREE}
    if config.steps > earlier.config.steps:
        del found["steps"]
        log.warning("%d steps in place of %d: the schedule is that of the longer run from here on", config.steps,
                    earlier.config.steps)  # fmt: skip
    _refuse([f"{path}: {old} → {new}" for path, (old, new) in found.items()], config)
    if config.steps < earlier.state.step:
        raise ConfigError(f"--steps {config.steps}: the run has taken {earlier.state.step} steps already")


def check_data(earlier: Earlier, prepared: Prepared, config: TrainConfig) -> None:
    """Raise ConfigError for another tokenizer, and for other data unless --resume-changed allows it."""
    if earlier.manifest.tokenizer_sha256 != prepared.manifest.tokenizer_sha256:
        raise ConfigError(f"{earlier.run} was trained with another tokenizer than that of {prepared.folder}")
    if earlier.manifest.data_sha256 != prepared.data_sha256():
        _refuse([f"data: the token files in {prepared.folder} are not those that the run began with"], config)
    here = environment()
    changes = [f"{name}: {was} → {here[name]}" for name, was in earlier.state.made_with.items() if here[name] != was]
    if changes:
        log.warning("the last bits may differ from those of a run in one go: %s", ", ".join(changes))


def _refuse(changes: list[str], config: TrainConfig) -> None:
    if not changes:
        return
    if not config.resume_changed:
        raise ConfigError(f"--resume: not as saved ({'; '.join(changes)}); --resume-changed goes on all the same")
    log.warning("resuming with changes: %s", "; ".join(changes))
