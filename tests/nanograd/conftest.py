"""Fixtures of the training command: a corpus of thirty documents, and one finished run on it."""

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
