"""A training step and a token's step recorded with all kernels in them: the emulator runs them again at each launch."""

import numpy as np
import pytest

from nanograd import backend
from nanograd.data import Batch
from nanograd.decoding import RecordedReader
from nanograd.device_step import DeviceStep
from nanograd.kernels.cuda.emulation import SCHEDULES
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.optim import FlatParameters
from nanograd.optim_settings import OptimConfig, make_optimizer
from nanograd.settings import TrainConfig

one_schedule = pytest.mark.parametrize("schedule", [SCHEDULES[-1]], ids=str, indirect=True)
MODEL = DecoderLMConfig(vocab_size=24, context_length=16, n_layers=1, n_heads=2, d_model=32, dropout=0.1)


def train(precision, *, record, optimizer="adamw"):
    """Losses of five steps, and the numbers that the model ends with."""
    optim = OptimConfig(optimizer=optimizer).resolved(accumulate=1)
    config = TrainConfig(device="cuda", model=MODEL, batch_size=2, optim=optim, precision=precision)
    stream = backend.own_stream("cuda")
    model = DecoderLM(MODEL, seed=1).to("cuda")
    flat = FlatParameters(model, precision=precision)
    steps = DeviceStep(config, model, make_optimizer(optim, flat, model.hidden_matrices()), record=record)
    losses = []
    for step in range(5):
        ids = np.random.default_rng(step).integers(0, 24, (2, 17))
        losses.append(steps.enqueue([Batch(ids[:, :-1], ids[:, 1:])], 1e-3 * (step + 1)).wait())
    assert stream is not None
    assert steps.record == record, "it was refused"
    return losses, backend.to_host(flat.parameters), backend.to_host(model.head.weight.data)


@one_schedule
@pytest.mark.parametrize(("precision", "optimizer"), [("float32", "muon"), ("bf16", "adamw")])
def test_replayed_kernels_give_an_eager_steps_bits(device, precision, optimizer):
    (losses, *weights), (again, *found) = (
        train(precision, record=record, optimizer=optimizer) for record in (False, True)
    )
    assert losses == again
    for x, y in zip(weights, found, strict=True):
        np.testing.assert_array_equal(x.view(np.uint8), y.view(np.uint8))


@one_schedule
def test_a_token_is_read_by_replayed_kernels(device):
    read = RecordedReader(DecoderLM(MODEL, seed=1).to("cuda").eval())
    here = DecoderLM(MODEL, seed=1).eval()
    for n in range(1, 6):
        with backend.formulas_only():
            wanted = here(np.arange(n)[None]).data[0, -1]
        np.testing.assert_allclose(read(list(range(n))), wanted, rtol=1e-4, atol=1e-5)
    assert read.graph is not None
    assert read.graph.graph is not None
