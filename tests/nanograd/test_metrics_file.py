"""metrics.jsonl on a full disk."""

from pathlib import Path

import pytest

from nanograd.io.metrics_file import MetricsFile

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="the system has no device that is always full")
def test_a_full_disk_is_named_when_the_file_is_closed_too():
    with pytest.raises(OSError, match="No space left") as raised, MetricsFile(FULL) as metrics:
        metrics.write({"step": 1})
    assert raised.value.filename == str(FULL)
