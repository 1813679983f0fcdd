"""The benchmark of longer contexts: nats per target, and its table."""

import numpy as np
import pytest

from benchmarks.longer_context import losses, show
from nanograd.models import DecoderLM, DecoderLMConfig


def test_nats_of_each_target() -> None:
    config = DecoderLMConfig(vocab_size=20, context_length=8, n_layers=1, n_heads=2, d_model=8, positions="alibi")
    model = DecoderLM(config).eval()
    windows = np.random.default_rng(0).integers(20, size=(5, 9))
    nats = losses(model, windows, batch=2)
    assert nats.shape == (5, 8)
    assert nats.mean() == pytest.approx(model.loss(windows[:, :-1], windows[:, 1:]).item(), rel=1e-5)
    last = model.loss(windows[:, :-1], np.where(np.arange(8) == 7, windows[:, 1:], -100)).item()
    assert nats[:, -1].mean() == pytest.approx(last, rel=1e-5)


def test_the_table_has_a_line_for_each_scaling(capsys: pytest.CaptureFixture[str]) -> None:
    records = [
        {"kind": "learned", "scaling": "none", "times": 1, "loss": 6.0, "far": 6.1},
        {"kind": "learned", "scaling": "none", "times": 2, "error": "learned positions end at 128"},
        *({"kind": "rotary", "scaling": "none", "times": n, "loss": 5.0 + n, "far": 5.1} for n in (1, 2)),
        {"kind": "rotary", "scaling": "yarn", "times": 2, "loss": 5.25, "far": 5.2},
    ]
    show(records)
    lines = {line[:18].strip(): line[18:].split("  ") for line in capsys.readouterr().out.splitlines()}
    assert [cell.strip() for cell in lines["learned"] if cell] == ["6.000 (6.100)", "no vectors"]
    assert [cell.strip() for cell in lines["rotary"] if cell] == ["6.000 (5.100)", "7.000 (5.100)"]
    assert [cell.strip() for cell in lines["rotary yarn"] if cell] == ["6.000 (5.100)", "5.250 (5.200)"]
