"""When two runs are the same run: bit by bit, but for times."""

import json

from nanograd.io.run_checkpoints import all_checkpoints
from tests.nanograd.small_runs import records

CHANCE = ["--dropout", "0.2", "--accumulate", "2", "--steps", "12"]  # dropout, accumulation, shuffling, schedule
TIMES = {"seconds", "tokens_per_second", "speed_alert"}


def same_end(run, whole):
    """Bit by bit, but for times."""
    last = all_checkpoints(run)[-1]
    for name in ("model.safetensors", "optimizer.safetensors", "config.toml"):
        assert (last / name).read_bytes() == (all_checkpoints(whole)[-1] / name).read_bytes(), name
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert without_times(records(run)) == without_times(records(whole))
    states = [json.loads((all_checkpoints(r)[-1] / "state.json").read_text()) for r in (run, whole)]
    ours, theirs = ({**s, "record": without_times([s["record"]]), "metrics_bytes": 0} for s in states)
    assert ours == theirs


def without_times(lines):
    return [[(key, value) for key, value in line.items() if key not in TIMES] for line in lines]
