"""Floor 6. Train a decoder language model: python -m nanograd.train

With no flags: the embedded Wikipedia excerpt, a small decoder, about three minutes on two cores. The run folder then
holds the model, its tokenizer, metrics.jsonl and loss.png; `python -m nanograd.sample RUN` continues any text with it.
"""

import contextlib
import logging
import math
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from nanograd import backend, kernels, random, terminal
from nanograd.config import from_command_line, to_toml
from nanograd.data import NO_TARGET, Batch, Prefetch
from nanograd.data.opening import training_batches, validation_set
from nanograd.generate import generate
from nanograd.io.checkpoint import save_tokenizer, save_weights
from nanograd.io.run_folder import run_folder
from nanograd.memory import PREPARING, check_disk, check_memory, estimate_memory
from nanograd.mixing import first_text, prepare_all
from nanograd.models import DecoderLM, count_parameters
from nanograd.optim import FlatParameters, FusedIntoBackward, NonFiniteGradientError, clip_scale
from nanograd.optim_settings import learning_rate_of, make_optimizer
from nanograd.plot import draw_loss
from nanograd.prepare import Prepared, token_folder
from nanograd.profile import FirstSteps, check_trace_path
from nanograd.settings import PRESETS, TrainConfig, check_frozen
from nanograd.tensor import no_grad
from nanograd.watch import part
from pre_process.files import naming_file, write_atomic

log = logging.getLogger(__name__)
ABOUT = (__doc__ or "").removeprefix("Floor 6. ")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse settings, prepare text, train, save. Returns the exit code; raises ValueError and OSError on bad input."""
    config = from_command_line(PRESETS, argv, prog="python -m nanograd.train", about=ABOUT, bare={"--profile": ""})
    terminal.configure_logging()
    config = msgspec.structs.replace(config, optim=config.optim.resolved(accumulate=config.accumulate))
    check_frozen(config)
    backend.check_device(config.device)
    kernels.check_matmul_precision(config.matmul_precision, config.device)
    backend.keep_freed_memory()
    if config.dry_run:
        describe(config)
        return 0
    with run_folder(config.out, preset=config.preset) as out:
        terminal.configure_logging(out / "train.log")
        check_trace_path(config.profile)  # it may lie in the run folder
        with compiled_kernels(config):
            prepared = prepare_all(config, terminal.progress_bar)
        return Run(config, prepared, out).train()


@contextlib.contextmanager
def compiled_kernels(config: TrainConfig) -> Iterator[None]:
    """Compile the kernels beside what the block does, if this machine has not done so before; then load them."""
    if config.device != "cpu" or not backend.kernels_allowed():
        yield
        return
    compiler = kernels.compile_elsewhere(msgspec.json.encode(config.model).decode(), config.matmul_precision)
    try:
        yield
        if compiler is not None:
            with terminal.progress_bar("compiling kernels (on the first start only)"):
                compiler.wait()
    finally:
        if compiler is not None:
            compiler.kill()
    kernels.load(config.matmul_precision)


class Run:
    """One training run: what it reads, what it changes, what it writes."""

    def __init__(self, config: TrainConfig, prepared: Prepared, out: Path) -> None:
        self.config, self.prepared, self.out = config, prepared, out
        self.batches = Prefetch(training_batches(config, prepared), ahead=config.loader.prefetch)
        self.validation = validation_set(config, prepared)
        check_disk(out, config.model)
        check_memory(config.model, config.batch_size, config.device, recompute_blocks=config.recompute_blocks)
        self.model = DecoderLM(config.model, seed=config.seed, embeddings=prepared.embeddings)
        self.model.recompute_blocks = config.recompute_blocks
        if config.freeze_embeddings:
            self.model.freeze_embeddings()
        self.model.to(config.device)
        self.parameters = FlatParameters(self.model, with_gradients=not config.optim.fuse_optimizer)
        self.optimizer = make_optimizer(config.optim, self.parameters, self.model.hidden_matrices())
        self.fused = FusedIntoBackward(self.optimizer) if config.optim.fuse_optimizer else None
        targets = np.concatenate([batch.targets.ravel() for batch in self.validation])
        self.unigram_loss = prepared.unigram_loss(targets[targets != NO_TARGET])
        self.val_loss: float | None = None  # of the model that was saved last
        self.saved_step = 0
        self.tokens = 0  # targets learned from; metrics.jsonl has it for every step

    def train(self) -> int:
        """The loop. Returns 0, or 128 + signal number after Ctrl-C or SIGTERM; the model is saved either way."""
        self._write_settings()
        started, record, last = time.perf_counter(), {}, False
        metrics_path, profiled = self.out / "metrics.jsonl", FirstSteps(self.config.profile, self.config.steps)
        with (
            terminal.StopSignal() as stop,
            terminal.TrainingDisplay(self.config.steps) as display,
            np.errstate(over="ignore", invalid="ignore"),  # the gradient's norm tells, in one line
            metrics_path.open("wb") as metrics,
            self.batches,
        ):
            for step in range(1, self.config.steps + 1):
                with profiled.watching(step):
                    record = self.step(step)
                last = step == self.config.steps or bool(stop.exit_code)
                profiled.finish(step, display.console, last=last)
                if step % self.config.eval_every == 0 or last:
                    with self.optimizer.averaged():
                        self.val_loss = record["val_loss"] = evaluate(self.model, self.validation, self.config.device)
                    record["unigram_loss"] = self.unigram_loss
                record["seconds"] = time.perf_counter() - started
                with naming_file(metrics_path):
                    metrics.write(msgspec.json.encode(record) + b"\n")
                    metrics.flush()
                self._report(record, display, last=last)
                if last:
                    break
        self.summarize(record, stopped=bool(stop.exit_code))
        return stop.exit_code

    def _write_settings(self) -> None:
        """Everything about the run that is known before its first step."""
        settings = msgspec.structs.replace(self.config, config=None, out=None, profile=None)  # a repeat gets a folder
        write_atomic(self.out / "config.toml", to_toml(settings).encode())
        save_tokenizer(self.out, self.config.model, self.prepared.tokenizer)
        log.info("training %d parameters, %s", self.model.n_parameters(), self.config)

    def _report(self, record: dict[str, Any], display: terminal.TrainingDisplay, *, last: bool) -> None:
        """What follows a step: weights and curve where the model was measured, a sample now and then, the live line."""
        step, every = record["step"], self.config.sample_every
        if "val_loss" in record:
            self.save(step)
        if last or (every and step % every == 0):
            display.print(f"step {step}: {self.sample(step)}")
        display.update(
            step,
            loss=record["loss"],
            val_loss=self.val_loss,
            tokens_per_second=record["tokens_per_second"],
            seconds=record["seconds"],
        )

    def step(self, step: int) -> dict[str, Any]:
        """One optimizer step; returns its line of metrics.jsonl. Raises ValueError if the loss is not a number."""
        config, started = self.config, time.perf_counter()
        first = (step - 1) * config.accumulate
        batches = [self.batch(i) for i in range(first, first + config.accumulate)]
        tokens = sum(batch.n_targets for batch in batches)
        lr = learning_rate_of(config.optim, step - 1, config.steps)
        loss, grad_norm = self._update(step, batches, lr)
        self.tokens += tokens
        seconds = time.perf_counter() - started
        return {
            "step": step,
            "loss": loss,
            "lr": lr,
            "grad_norm": grad_norm,
            "tokens": self.tokens,
            "tokens_per_second": tokens / seconds,
        }

    def _update(self, step: int, batches: Sequence[Batch], lr: float) -> tuple[float, float]:
        """Backward over all micro-batches, and the optimizer. Returns loss and length of the gradient."""
        tokens, loss = sum(batch.n_targets for batch in batches), math.nan
        try:
            if self.fused is not None:
                with self.fused.step(lr):
                    loss = self.backward(batches[0], share=1.0)
                return loss, self.fused.norm
            loss = sum(self.backward(batch, share=batch.n_targets / tokens) for batch in batches)
            with part("gradient norm"):
                grad_norm, scale = clip_scale(self.parameters, self.config.optim.clip_norm or math.inf)
        except NonFiniteGradientError as error:
            raise self._diverged(step, str(error) if self.fused else f"loss {loss}") from None
        with part("optimizer"):
            self.optimizer.step(lr, scale=scale, zero_grad=True)
        return loss, grad_norm

    def _diverged(self, step: int, why: str) -> ValueError:
        kept = f"; {self.out} keeps the model of step {self.saved_step}" if self.saved_step else ""
        return ValueError(f"training diverged at step {step}, {why}: give a lower --lr{kept}")

    def batch(self, index: int) -> Batch:
        """Micro-batch `index`."""
        with part("data"):
            return self.batches.batch(index)

    def backward(self, batch: Batch, *, share: float) -> float:
        """Add one micro-batch's share to the gradients; returns its share of the loss."""
        optim = self.config.optim
        with part("forward"):
            loss = self.model.loss(
                **batch.on(self.config.device), label_smoothing=optim.label_smoothing, z_loss=optim.z_loss
            )
            loss = loss * share
        loss.backward()
        return float(loss.item())

    def save(self, step: int) -> None:
        """Weights and the picture of the curve so far."""
        with self.optimizer.averaged():
            save_weights(self.out, self.model)
        self.saved_step = step
        draw_loss(self.out)

    def sample(self, step: int) -> str:
        """What the model says now; drawn from a stream of its own, so sampling never changes the training."""
        tokenizer = self.prepared.tokenizer
        prompt = [tokenizer.end_of_text_id, *tokenizer.encode(self.config.sample_prompt)]
        with self.optimizer.averaged():
            ids = generate(
                self.model,
                prompt,
                max_new_tokens=self.config.sample_tokens,
                rng=random.generator(self.config.seed, f"sample {step}"),
                temperature=0.8,
                top_p=0.95,
                stop_id=tokenizer.end_of_text_id,
                allowed=tokenizer.vocab_size,
            )
        text = tokenizer.decode(np.array([*prompt[1:], *ids]))
        log.info("step %d, sample: %s", step, text)
        return text

    def summarize(self, record: dict[str, Any], *, stopped: bool) -> None:
        """A table of what was reached, and what to do next."""
        val_loss = record["val_loss"]
        per_byte = val_loss / math.log(2) / self.prepared.bytes_per_token()
        rows = {
            "training loss": f"{record['loss']:.4f} nats per token (last step)",
            "validation loss": f"{val_loss:.4f} nats per token = {per_byte:.3f} bits per byte",
            "unigram model": f"{self.unigram_loss:.4f} nats per token (knows only how often each token occurs)",
            "tokens": f"{record['tokens']:,} in {record['seconds']:.0f} s = "
            f"{record['tokens'] / record['seconds']:,.0f} per second, evaluation and samples included",
            "parameters": f"{len(self.parameters.parameters):,} learned"
            + (f", {self.model.tokens.weight.size:,} frozen" if self.config.freeze_embeddings else ""),
            "peak memory": f"{terminal.peak_memory_mb():,.0f} MB",
            "run folder": str(self.out),
        }
        log.info("finished: %s", rows)
        _print_table(f"stopped at step {record['step']}, saved" if stopped else "done", rows)
        sample = ["python", "-m", "nanograd.sample", str(self.out), f"--prompt={self.config.sample_prompt}"]
        print(f"next: {shlex.join(sample)}", file=sys.stderr)


def evaluate(model: DecoderLM, batches: Iterable[Batch], device: str) -> float:
    """Mean cross-entropy in nats per token over `batches`, dropout off, no smoothing."""
    total, count, was_training = 0.0, 0, model.training
    model.eval()
    with no_grad():
        for batch in batches:
            total += model.loss(**batch.on(device)).item() * batch.n_targets
            count += batch.n_targets
    model.train(was_training)
    return total / count


def describe(config: TrainConfig) -> None:
    """What --dry-run prints: settings, parameters, tokens, memory."""
    folder = token_folder(first_text(config))
    memory = estimate_memory(config.model, config.batch_size, recompute_blocks=config.recompute_blocks)
    memory += 0 if folder.is_dir() else PREPARING
    per_step = config.accumulate * config.batch_size * config.model.context_length
    print(to_toml(config))
    rows = {
        "parameters": f"{count_parameters(config.model):,}",
        "tokens": f"{per_step:,} a step, {config.steps * per_step:,} in {config.steps:,} steps",
        "memory": f"about {memory / 1e6:,.0f} MB",
        "prepared text": f"{folder} ({'there' if folder.is_dir() else 'will be made'})",
    }
    _print_table("dry run: nothing was written", rows)


def _print_table(title: str, rows: dict[str, str]) -> None:
    from rich.table import Table

    table = Table("", "", title=title, show_header=False, title_justify="left")
    table.columns[1].overflow = "fold"
    for name, value in rows.items():
        table.add_row(name, value)
    terminal.console().print(table)


if __name__ == "__main__":
    sys.exit(terminal.run(main))
