"""Reading a text that grows, on the stand-in for a GPU: one launch a token, and what the CPU reads."""

import logging

import numpy as np
import pytest

from nanograd.decoding import RecordedReader, last_logits, reader
from nanograd.generate import generate
from nanograd.models import DecoderLM, DecoderLMConfig

SHAPE = {"vocab_size": 19, "context_length": 6, "n_layers": 2, "n_heads": 2, "d_model": 8}


def model(device="cpu", **changes):
    return DecoderLM(DecoderLMConfig(**SHAPE, **changes), seed=1).to(device).eval()


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("changes", [{}, {"positions": "rotary"}, {"positions": "alibi", "head_bias": True}], ids=str)
def test_a_replayed_step_reads_what_the_cpu_reads(changes):
    """Texts that grow past the window, too."""
    here, read = model(**changes), RecordedReader(model("cuda", **changes))
    ids = np.random.default_rng(0).integers(0, 19, 11).tolist()
    for n in range(1, 12):
        np.testing.assert_allclose(read(ids[:n]), last_logits(here, ids[:n]), rtol=1e-5, atol=1e-6)
    assert read.graph.graph is not None


@pytest.mark.usefixtures("stand_in")
def test_a_replayed_step_equals_an_eager_one_bit_for_bit(monkeypatch):
    ids, found = [3, 1, 4, 1, 5, 9], []
    for warm_up in (2, 99):
        monkeypatch.setattr("nanograd.graph.WARM_UP", warm_up)
        read = RecordedReader(model("cuda"))
        found.append([read(ids[:n]) for n in range(1, 7)])
    np.testing.assert_array_equal(*found)


def test_a_token_is_one_launch_and_one_wait(stand_in):
    read = RecordedReader(model("cuda"))
    for n in range(1, 4):
        read([1] * n)
    stand_in.counts.clear()
    read([1, 2, 3, 4])
    assert {name: n for name, n in stand_in.counts.items() if n} == {
        "graph": 1,
        "launch": 2,  # ids, and where the last one stands, to where the graph reads them
        "event": 2,  # a copy three tokens ago; the logits
    }


@pytest.mark.usefixtures("stand_in")
def test_a_text_is_the_same_on_both_devices():
    texts = [
        list(generate(model(device), [0], max_new_tokens=12, rng=np.random.default_rng(5)))
        for device in ("cpu", "cuda")
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 12


@pytest.mark.usefixtures("stand_in")
def test_what_cannot_be_recorded_is_told_once_and_read_all_the_same(monkeypatch, caplog):
    lm = model("cuda")
    hidden = lm.hidden

    def looks(*inputs):
        y = hidden(*inputs)
        y.data[0, 0, 0].item()
        return y

    monkeypatch.setattr(lm, "hidden", looks, raising=False)
    read = RecordedReader(lm)
    with caplog.at_level(logging.WARNING):
        rows = [read([1, 2]) for _ in range(5)]
    np.testing.assert_array_equal(rows[0], rows[-1])
    (line,) = caplog.messages
    assert line.startswith("reading can't be recorded as a CUDA graph, and goes on launch by launch: cudaErrorStream")


@pytest.mark.usefixtures("stand_in")
def test_who_has_to_see_the_texts_length_reads_it_as_it_is():
    scaled = {"positions": "rotary", "rotary_scaling": "dynamic", "rotary_factor": 2.0}
    assert not isinstance(reader(model("cuda", **scaled)), RecordedReader)
    assert not isinstance(reader(model()), RecordedReader)
    assert isinstance(reader(model("cuda")), RecordedReader)
