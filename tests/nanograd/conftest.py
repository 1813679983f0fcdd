"""Fixtures of the training command: a corpus of thirty documents, and one finished run on it."""

import sys

import numpy as np
import pytest

from nanograd import terminal, train
from tests.nanograd.small_runs import SENTENCES, SMALL


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Thirty documents with a little variety."""
    folder = tmp_path_factory.mktemp("corpus")
    words = SENTENCES.split()
    rng = np.random.default_rng(0)
    for i in range(30):
        (folder / f"{i:02}.txt").write_text(" ".join(rng.choice(words, 120)))
    return folder


@pytest.fixture(scope="session")
def flags(corpus, tmp_path_factory):
    return [*SMALL, "--data", str(corpus), "--cache", str(tmp_path_factory.mktemp("cache"))]


@pytest.fixture(scope="session")
def finished(flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    assert terminal.run(train.main, [*flags, "--out", str(out)]) == 0
    return out


@pytest.fixture
def stand_in(monkeypatch):
    """`import cupy` gives the stand-in, with counts at zero. Formulas run there: kernels have tests of their own."""
    pytest.importorskip("cupy", reason="the stand-in asks the real CuPy which names it has: pip install cupy-cuda13x")
    from tests import fake_cupy

    for name, module in fake_cupy.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("NANOGRAD_KERNELS", "0")
    fake_cupy.counts.clear()
    return fake_cupy
