"""Floor 6. Whole training steps and decoding on a device: equal to the CPU's, and how fast."""

import time
from typing import Any

import numpy as np

from nanograd import backend, random
from nanograd.backend import ArrayModule
from nanograd.data import Batch
from nanograd.device_step import DeviceStep
from nanograd.generate import generate
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.optim import FlatParameters, clip_scale
from nanograd.optim_settings import OptimConfig, make_optimizer
from nanograd.settings import Precision, TrainConfig

GPT2 = DecoderLMConfig(
    vocab_size=50_304, context_length=1024, n_layers=12, n_heads=12, d_model=768, positions="learned",
    scale_embeddings=False, embedding_std=0.02,
)  # fmt: skip
SMALL = DecoderLMConfig(vocab_size=50_304, context_length=256, n_layers=6, n_heads=6, d_model=384, positions="learned")
TINY = DecoderLMConfig(vocab_size=512, context_length=64, n_layers=2, n_heads=2, d_model=64, dropout=0.1)
LR = 1e-3


class Training:
    """A model on `device`, trained on random tokens."""

    def __init__(
        self,
        model: DecoderLMConfig,
        *,
        batch_size: int,
        device: str = "cuda",
        precision: Precision = "float32",
        record: bool = False,
    ) -> None:
        optim = OptimConfig().resolved(accumulate=1)
        self.config = TrainConfig(
            model=model, batch_size=batch_size, device=device, precision=precision, optim=optim,
            cuda_graph="on" if record else "off",
        )  # fmt: skip
        self.model = DecoderLM(model).to(device)
        self.flat = FlatParameters(self.model, precision=precision)
        self.optimizer = make_optimizer(optim, self.flat)
        self.device_step = DeviceStep(self.config, self.model, self.optimizer, record=record)

    def batch(self, number: int) -> Batch:
        """Random tokens, the same for the same number."""
        rng = random.generator(number, "gpucheck")
        ids = rng.integers(
            0, self.config.model.vocab_size, (self.config.batch_size, self.config.model.context_length + 1)
        )
        return Batch(ids[:, :-1], ids[:, 1:])

    def losses(self, steps: int) -> list[float]:
        """Of that many steps, each waited for."""
        return [self.device_step.enqueue([self.batch(i)], LR).wait()[0] for i in range(steps)]

    def seconds_per_step(self, steps: int, *, warm_up: int = 4) -> float:
        """Steps one ahead of the host, as training takes them."""
        batches = [self.batch(i) for i in range(4)]  # making random tokens is not what is measured
        for i in range(warm_up):
            answer = self.device_step.enqueue([batches[i % 4]], LR)
        answer.wait()
        began, coming = time.perf_counter(), self.device_step.enqueue([batches[0]], LR)
        for i in range(1, steps):
            before, coming = coming, self.device_step.enqueue([batches[i % 4]], LR)
            before.wait()
        coming.wait()
        return (time.perf_counter() - began) / steps


def losses_on_cpu(model: DecoderLMConfig, *, batch_size: int, steps: int) -> list[float]:
    """Those of Training in float32, by the CPU."""
    source = Training.__new__(Training)
    source.config = TrainConfig(model=model, batch_size=batch_size)
    lm = DecoderLM(model)
    flat = FlatParameters(lm)
    optimizer, losses = make_optimizer(OptimConfig().resolved(accumulate=1), flat), []
    for i in range(steps):
        loss = lm.loss(**source.batch(i).named())
        loss.backward()
        optimizer.step(LR, scale=clip_scale(flat, 1.0)[1], zero_grad=True)
        losses.append(loss.item())
    return losses


def equal_training(model: DecoderLMConfig = TINY, *, batch_size: int = 8, steps: int = 20) -> dict[str, float | bool]:
    """How far losses are from the CPU's, in float32 and bf16; and whether a recorded step has an eager one's bits."""
    wanted = np.array(losses_on_cpu(model, batch_size=batch_size, steps=steps))
    eager = Training(model, batch_size=batch_size)
    found, recorded = eager.losses(steps), Training(model, batch_size=batch_size, record=True)
    replayed = recorded.losses(steps)
    narrow = Training(model, batch_size=batch_size, precision="bf16").losses(steps)
    weights = [backend.to_host(each.flat.parameters) for each in (eager, recorded)]
    return {
        "float32_from_cpu": float(np.abs(np.array(found) / wanted - 1).max()),
        "bf16_from_cpu": float(np.abs(np.array(narrow) / wanted - 1).max()),
        "graph_was_recorded": recorded.device_step.record,
        "replay_equals_eager": found == replayed and bool((weights[0] == weights[1]).all()),
    }


def speed(
    xp: ArrayModule, model: DecoderLMConfig, *, batch_size: int, precision: Precision, record: bool, steps: int
) -> dict[str, Any]:
    """Tokens per second, milliseconds per step, most memory in the pool."""
    pool = xp.get_default_memory_pool()
    pool.free_all_blocks()
    training = Training(model, batch_size=batch_size, precision=precision, record=record)
    seconds = training.seconds_per_step(steps)
    return {
        "tokens_per_second": batch_size * model.context_length / seconds,
        "ms_per_step": seconds * 1e3,
        "memory_gb": (pool.total_bytes() + training.device_step.pool.total_bytes()) / 1e9,
        "recorded": training.device_step.record,
    }


def decoding_speed(model: DecoderLMConfig, *, tokens: int, device: str = "cuda") -> float:
    """Tokens per second of one continued text."""
    lm, rng = DecoderLM(model).to(device), np.random.default_rng(0)
    list(generate(lm, [0], max_new_tokens=8, rng=rng))
    began = time.perf_counter()
    list(generate(lm, [0], max_new_tokens=tokens, rng=rng))
    return tokens / (time.perf_counter() - began)
