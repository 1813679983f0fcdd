"""Small training runs, for the tests of the training command: flags, and what a run left behind."""

import json

from nanograd import terminal

SENTENCES = "the cat sat on the mat. a dog ran to the hut. one day it rained and the sun came out. "
SMALL = ["--vocab-size", "280", "--context-length", "16", "--n-layers", "1", "--n-heads", "2", "--d-model", "16",
         "--batch-size", "4", "--eval-every", "5", "--sample-every", "5", "--sample-tokens", "5", "--steps", "10",
         "--warmup-steps", "2", "--word2vec-epochs", "1", "--device", "cpu"]  # fmt: skip


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def fails(main, argv, message, capsys):
    """Exit code 2 and one line."""
    assert terminal.run(main, argv) == 2
    err = capsys.readouterr().err.splitlines()
    assert [line for line in err if line.startswith("error: ")], err
    assert message in err[-1], err[-1]
