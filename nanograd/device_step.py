"""Floor 5. A training step on a GPU: the host says what is to be done, and does not wait until it is.

    host   enqueue k + 1 │ wait for k's loss │ write it down │ enqueue k + 2 │ …
    GPU    … step k ────────────────────────▶│ step k + 1 ─────────────────────▶│ …

Loss, length of the gradient, the factor that clips it and whether the step counts are computed on the device and stay
there; the first two come back through pinned memory. A step that is no number changes nothing, and neither does the one
after it, which was on its way before anybody knew: the device waits until the host has seen to it (`go_on`). So what is
trained is what a host that waits for each step would have trained, bit for bit.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nanograd import backend, watch
from nanograd.backend import Array
from nanograd.data import Batch
from nanograd.data.upload import Answer, Told, Upload
from nanograd.graph import CaptureRefusedError, Recorded
from nanograd.models import DecoderLM
from nanograd.optim import Optimizer
from nanograd.optim.clip import LONGEST, squares
from nanograd.settings import TrainConfig, why_no_graph

log = logging.getLogger(__name__)

SMALL = 5e12  # floating-point operations of a step, some 10 ms: below, launches are a part of its time that counts


class Begun(NamedTuple):
    """A step that a GPU has been told to take: what it is made of, and how things were before it."""

    batches: Sequence[Batch]
    dropout_calls: int
    first_batch: int
    steps_taken: int  # by the optimizer
    lr: float
    answer: Answer  # loss and length of the gradient


def device_step(config: TrainConfig, model: DecoderLM, optimizer: Optimizer) -> "DeviceStep | None":
    """How this run takes its steps, or None if it waits for each: on a CPU, and where the host has to look at numbers
    before the optimizer may."""
    looks = config.optim.fuse_optimizer or config.optim.skip_spikes or config.precision == "fp16"
    if config.device == "cpu" or looks:
        return None
    tokens = config.accumulate * config.batch_size * config.model.context_length
    small = 6 * model.n_parameters() * tokens < SMALL
    wanted = config.cuda_graph == "on" or (config.cuda_graph == "auto" and small and not why_no_graph(config))
    return DeviceStep(config, model, optimizer, record=wanted)


class DeviceStep:
    """Steps that are enqueued.

    record  once it has been taken twice, a step is recorded as a CUDA graph, for each shape of its batches
    """

    def __init__(self, config: TrainConfig, model: DecoderLM, optimizer: Optimizer, *, record: bool) -> None:
        self.config, self.model, self.optimizer, self.record = config, model, optimizer, record
        xp = self.xp = backend.array_module(optimizer.flat.parameters)
        self.upload, self.told = Upload(xp), Told(xp, 2)
        self.numbers = xp.zeros(2, np.float64)  # loss and length of the gradient
        self.halted = xp.zeros((), bool)  # since a step was no number, until go_on()
        self.pool = xp.cuda.MemoryPool()
        self.graphs: dict[Any, tuple[Recorded, dict[str, Array]]] = {}
        self.calls_per_step = 0  # of dropout

    def enqueue(self, batches: Sequence[Batch], lr: float) -> Answer:
        """One step. Its answer: loss, length of the gradient."""
        arrays = self._inputs(batches)
        if self.optimizer.capturable:  # a step is the same, bit for bit, whether it is recorded or not
            arrays["hyper"] = np.array(self.optimizer.hyper(lr), np.float32)
            arrays["step"] = np.array(self.optimizer.steps + 1, np.uint64)
        if self.record and watch.watcher is None:  # a profile wants to see each operation
            self._enqueue_recorded(arrays, len(batches), lr)
        else:
            self._take(self.upload.send(arrays), len(batches), lr)
        return self.told.tell(self.numbers)

    def go_on(self) -> None:
        """After a step that was no number: take the next ones."""
        self.halted[...] = False

    def _inputs(self, batches: Sequence[Batch]) -> dict[str, np.ndarray]:
        """'ids.0', 'targets.0', … and each micro-batch's share of the loss."""
        tokens = sum(batch.n_targets for batch in batches)
        arrays = {f"{name}.{i}": x for i, batch in enumerate(batches) for name, x in batch.named().items()}
        return {**arrays, "shares": np.array([batch.n_targets / tokens for batch in batches], np.float32)}

    def _enqueue_recorded(self, arrays: dict[str, np.ndarray], n: int, lr: float) -> None:
        """The same, with everything that changes from step to step always at the same place in device memory."""
        keys, steps = self.model.dropout_keys, self.optimizer.steps
        kind = tuple((name, x.shape) for name, x in arrays.items())
        arrays["calls"] = np.array(keys.calls, np.uint64)
        graph, places = self.graphs.get(kind) or (Recorded(self.xp, self.pool), None)
        places = self.upload.send(arrays, into=places)
        self.graphs[kind] = graph, places
        calls = keys.calls
        try:
            was_replayed = graph(lambda: self._take(places, n, lr))
        except CaptureRefusedError as refused:
            log.warning("the step can't be recorded as a CUDA graph, and goes on launch by launch: %s", refused)
            keys.calls, self.record = calls, False
            self.optimizer.count(steps)
            self._take(places, n, lr)
            return
        if was_replayed:
            self.optimizer.flat.check_views()
            self.optimizer.count(steps + 1)
            keys.calls += self.calls_per_step
        else:
            self.calls_per_step = keys.calls - calls

    def _take(self, there: dict[str, Array], n: int, lr: float) -> None:
        """Forward, backward, optimizer: what the device does in a step."""
        self.optimizer.read_from(there.get("hyper"), there.get("step"))
        self.model.dropout_keys.count_on_device(there.get("calls"))
        self.numbers[...] = 0
        for i in range(n):
            share = self._share_of_loss(there, i)
            share.backward()
            self.numbers[:1] += share.data
        with watch.part("gradient norm"):
            scale = self._judge()
        with watch.part("optimizer"):
            before = [array.copy() for array in self.optimizer.changed()]
            self.optimizer.step(lr, scale=scale, zero_grad=True)
            for array, then in zip(self.optimizer.changed(), before, strict=True):
                self.xp.copyto(array, then, where=self.halted)
        self.model.dropout_keys.count_on_device(None)

    def _share_of_loss(self, there: dict[str, Array], i: int) -> Any:
        optim = self.config.optim
        inputs = {name.removesuffix(f".{i}"): x for name, x in there.items() if name.endswith(f".{i}")}
        with watch.part("forward"):
            loss = self.model.loss(**inputs, label_smoothing=optim.label_smoothing, z_loss=optim.z_loss)
            return loss * there["shares"][i]

    def _judge(self) -> Array:
        """The factor for the gradient, a float32 without axes; 0 if the step is not to be taken, which is noted.

        The same numbers, from the same formulas in float64, as guard.no_number and clip.scale_to look at.
        """
        xp, (loss, norm), limit = self.xp, (self.numbers[:1], self.numbers[1:]), self.config.optim.clip_norm
        norm[...] = xp.sqrt(squares(self.optimizer.flat.gradients))
        scale = limit / xp.maximum(norm, limit) if limit else xp.ones_like(norm)
        is_number = xp.isfinite(loss) & xp.isfinite(norm) & (norm * scale <= LONGEST)
        self.halted[...] = (self.halted | ~is_number).reshape(())
        return xp.where(self.halted, 0.0, scale).astype(np.float32).reshape(())
