"""The two that `benchmarks.default_preset` compares: the default preset, and nanoGPT's recipe in PyTorch.

Both learn the same token files, and both are judged by nanograd.evaluation: PyTorch's weights are put into a DecoderLM
of the same layout, so one piece of code prices every token of every held-out document once.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import numpy as np

from benchmarks.turns import Answer, milliseconds
from nanograd import terminal
from nanograd.models import DecoderLM, DecoderLMConfig, count_parameters
from nanograd.settings import TrainConfig

OURS = "nanograd"
TIMED = 20  # steps of which the median says which PyTorch is the fastest
WARMUP_SHARE = 0.05  # of a run: 100 of 2,000 steps in nanoGPT's README
Record = dict[str, Any]


def prepare(contestant: str, config: TrainConfig, threads: int) -> Answer:
    """A contestant's process. A question is a record of what is to be run: see `ours`, `torchs` and `step_time`."""
    if contestant == OURS:
        return partial(answer_ours, config)
    return partial(answer_torchs, config, contestant, threads)


def answer_ours(config: TrainConfig, question: Record) -> Record:
    return ours(config, question["seed"], question["seconds"])


def answer_torchs(config: TrainConfig, contestant: str, threads: int, question: Record) -> Any:
    training = torch_training(config, contestant, threads, question)
    if "seconds" not in question:
        return step_time(training)
    return torchs(config, training, question["seconds"])


def ours(config: TrainConfig, seed: int, seconds: float | None) -> Record:
    """The preset as `python -m nanograd.train` trains it, without checkpoints and display; its word vectors count.

    seconds  None: all steps of the preset. Else as many as there is time for, and the learning rate goes by the clock.
    """
    from nanograd import backend, kernels
    from nanograd.mixing import prepare_all
    from nanograd.trainer import Trainer

    backend.keep_freed_memory()
    kernels.load(config.matmul_precision)
    config = msgspec.structs.replace(config, seed=seed, eval_tokens=1)
    prepare_all(msgspec.structs.replace(config, init="random"), terminal.progress_bar)  # token files: both have them
    before = time.perf_counter()
    prepared = prepare_all(config, terminal.progress_bar)
    vectors = time.perf_counter() - before
    trainer = Trainer(config, prepared)
    if seconds is None:
        done, spent = all_steps(trainer.step, config.steps)
    else:
        done, spent = by_the_clock(lambda at: trainer.step(1 + int(at)), config.steps, seconds - vectors)
    with trainer.optimizer.averaged():
        scores = score(trainer.model, config)
    return {"steps": done, "spent": vectors + spent, "parameters": trainer.model.n_parameters(), **scores}


def torchs(config: TrainConfig, training: Any, seconds: float) -> Record:
    """nanoGPT's recipe for so many seconds. What is compiled has been compiled before."""
    from nanograd import kernels

    done, spent = by_the_clock(training.step, training.recipe.steps, seconds)
    kernels.load(config.matmul_precision)
    decoder = as_decoder(training.model, config.model)
    return {"steps": done, "spent": spent, "parameters": learned(decoder), **score(decoder, config)}


def all_steps(step: Callable[[int], Any], steps: int) -> tuple[int, float]:
    """Steps 1 … steps, and the seconds they took."""
    before = time.perf_counter()
    for number in range(1, steps + 1):
        step(number)
    return steps, time.perf_counter() - before


def by_the_clock(step: Callable[[float], Any], steps: int, seconds: float) -> tuple[int, float]:
    """`step(at)` until time is up, at least once; `at`, from 0 to below `steps`, is the place in the schedule that the
    clock says. Returns how many steps were taken, and the seconds."""
    before, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - before) < seconds or not done:
        step(steps * spent / seconds if done else 0.0)
        done += 1
    return done, time.perf_counter() - before


def torch_training(config: TrainConfig, contestant: str, threads: int, question: Record) -> Any:
    """GPT-2's layout with the width, learning rate and seed that are asked for, compiled and ready to start."""
    from benchmarks import small_gpt
    from nanograd.data import open_tokens
    from nanograd.mixing import prepare_all

    prepared = prepare_all(msgspec.structs.replace(config, init="random"), terminal.progress_bar)
    recipe = small_gpt.Recipe(
        layers=config.model.n_layers,
        width=question["width"],
        heads=question["heads"],
        context=config.model.context_length,
        batch=config.batch_size,
        warmup=round(WARMUP_SHARE * small_gpt.Recipe.steps),
        lr=question["lr"],
        betas=(0.9, 0.95),
    )
    training = small_gpt.Training(
        np.asarray(open_tokens(prepared.folder, "train")[:], np.int64),
        config.model.vocab_size,
        recipe,
        seed=question["seed"],
        threads=threads,
        compiled="compile" in contestant,
        bf16="bf16" in contestant,
    )
    training.warm_up()
    return training


def step_time(training: Any) -> Record:
    """Milliseconds of a step."""
    return {"ms": statistics.median(milliseconds(lambda: training.step(0)) for _ in range(TIMED))}


def gpt2_layout(like: DecoderLMConfig, width: int, heads: int) -> DecoderLMConfig:
    """What small_gpt.SmallGPT is: learned positions, layer norms, GELU, one matrix for tokens and output."""
    return DecoderLMConfig(
        vocab_size=like.vocab_size,
        context_length=like.context_length,
        n_layers=like.n_layers,
        d_model=width,
        n_heads=heads,
        positions="learned",
        scale_embeddings=False,
        qkv_bias=False,
    )


def same_size(like: DecoderLMConfig) -> tuple[int, int]:
    """(width, heads) of the GPT-2 with as many layers whose number of parameters is nearest; heads of 32."""

    def distance(heads: int) -> int:
        return abs(count_parameters(gpt2_layout(like, 32 * heads, heads)) - count_parameters(like))

    heads = min(range(1, 65), key=distance)
    return 32 * heads, heads


def learned(decoder: DecoderLM) -> int:
    """Parameters, without the biases that only stand for there being none."""
    return sum(p.size for _, p in decoder.named_parameters() if p.data.any())


def as_decoder(model: Any, like: DecoderLMConfig) -> DecoderLM:
    """A small_gpt.SmallGPT's weights in a DecoderLM: the same function. The biases that it has not are zeros."""
    theirs = {name: value.detach().float().numpy() for name, value in model.state_dict().items()}
    decoder = DecoderLM(gpt2_layout(like, len(theirs["norm.weight"]), model.blocks[0].heads))
    decoder.load_state_dict({
        name: theirs.get(name.replace("attention.", "").replace("mlp.", ""), np.zeros_like(array))
        for name, array in decoder.state_dict().items()
    })  # fmt: skip
    return decoder


def score(model: DecoderLM, config: TrainConfig) -> Record:
    """Loss and bits per byte of all held-out documents, as `python -m nanograd.evaluate RUN --data - --split val`."""
    from nanograd.data.documents import open_documents
    from nanograd.evaluation import document_losses, figures
    from nanograd.prepare import token_folder
    from pre_process.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(token_folder(config))
    text = open_documents(config.data, tokenizer, split="val", val_fraction=config.text.val_fraction)
    found = figures(
        list(document_losses(model, text.documents, end_of_text=tokenizer.end_of_text_id, batch_size=16)), text.n_bytes
    )
    return {"loss": found.loss, "bits_per_byte": found.bits_per_byte, "bytes": found.bytes, "tokens": found.tokens}
