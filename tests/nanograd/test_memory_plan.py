"""The memory plan: printed before the first step, and near the measured peak at shapes of several kinds."""

import os
import re
import subprocess
import sys

import pytest

from nanograd import memory, terminal, train
from nanograd.models import DecoderLMConfig

SHAPES = {
    "default": [],
    "many tokens": ["--batch-size", "64"],
    "large vocabulary": ["--vocab-size", "16384", "--d-model", "256", "--n-heads", "4", "--batch-size", "16"],
    "tied": ["--tie-embeddings"],
    "layer norm and GELU": ["--norm", "layer_norm", "--activation", "gelu"],
    "recomputed blocks": ["--context-length", "512", "--batch-size", "16", "--n-layers", "8", "--recompute-blocks"],
    "muon": ["--optimizer", "muon"],
    "mean of the weights": ["--ema-decay", "0.99"],
    "preset small": ["--preset", "small"],
}
LIKE_A_LONG_RUN = ["--steps", "12", "--eval-every", "3", "--eval-tokens", "4096", "--sample-every", "3"]


def megabytes(text, pattern):
    return float(re.search(pattern, text)[1].replace(",", ""))


def test_the_plan_is_printed_before_the_first_step(flags, tmp_path, capsys):
    assert terminal.run(train.main, [*flags, "--sample-every", "1", "--out", str(tmp_path / "x")]) == 0
    err = capsys.readouterr().err
    assert err.index("memory plan: about ") < err.index("step 1: ")
    assert "memory plan: about " in (tmp_path / "x" / "train.log").read_text()


def test_sixteen_bits_on_the_cpu_get_an_honest_line_instead_of_a_plan(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # the table folds nothing
    assert terminal.run(train.main, ["--device", "cpu", "--precision", "bf16", "--dry-run"]) == 0
    assert "not foreseen for --precision bf16 on the CPU" in capsys.readouterr().err


def test_the_parts_of_a_plan_add_up_and_grow_with_what_they_are_for():
    small = memory.plan_memory(DecoderLMConfig(), 8)
    assert small.total == sum(small) == memory.estimate_memory(DecoderLMConfig(), 8)
    more = memory.plan_memory(DecoderLMConfig(), 16, left_behind=1e6)
    assert more.activations > 1.5 * small.activations
    assert (more.state, more.snapshot) == (small.state, small.snapshot)
    assert more.program == small.program + 1e6
    assert str(small).startswith(f"about {small.total / 1e6:,.0f} MB: 230 program, ")


@pytest.mark.parametrize("norm", ["dyt", "derf"])
def test_what_replaces_a_norm_keeps_what_it_has_squashed_too(norm):
    """One more array (tokens, C) for each of the two in a block"""
    config, plain = DecoderLMConfig(norm=norm), DecoderLMConfig()
    more = memory.plan_memory(config, 8).activations - memory.plan_memory(plain, 8).activations
    assert more == config.n_layers * 2 * 4 * 8 * config.context_length * config.d_model


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_the_plan_is_within_a_tenth_of_the_peak(tmp_path, name):
    """In a process of its own, whose peak is the run's alone; the second run finds the text prepared.

    Four checkpoints: a step beside the first one may still find room for all it needs in what was freed.
    """
    flags = ["--init", "random", *LIKE_A_LONG_RUN, "--sample-tokens", "30"]
    argv = [sys.executable, "-m", "nanograd.train", *SHAPES[name], *flags, "--cache", str(tmp_path / "cache")]
    for run in ("preparing", "prepared"):
        command = [*argv, "--out", str(tmp_path / run)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "120"})
    planned = megabytes(done.stderr, r"memory plan: about ([0-9,]+) MB")
    peak = megabytes(done.stderr, r"peak memory +│ ([0-9,]+) MB")
    assert planned == pytest.approx(peak, rel=0.1)
