"""Event files: what TensorBoard will read; and what is said where the library is missing."""

import logging
import os
import struct
import subprocess
import sys

import pytest

from nanograd.event_file import FOLDER, EventFile


def events(run):
    """Every event of every file, oldest file first: records of length, checksum, content, checksum."""
    pb = pytest.importorskip("tensorboardX.proto.event_pb2")
    for path in sorted((run / FOLDER).iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            yield pb.Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]


def scalars(run):
    return [
        (e.step, v.tag, round(v.simple_value, 4))
        for e in events(run)
        for v in e.summary.value
        if not v.HasField("tensor")
    ]


def test_a_record_becomes_scalars_and_what_is_no_number_is_left_out(tmp_path):
    pytest.importorskip("tensorboardX")
    with EventFile(tmp_path, wanted=True) as file:
        file.add({"step": 1, "loss": 2.5, "grad_norm": float("nan"), "tokens": 7})
        file.add({"step": 2, "loss": None, "val_loss": 2.25, "loss_alert": "step 2: too high"})
        file.add({"step": 3, "loss": None, "skipped": "loss nan"})
    assert scalars(tmp_path) == [(1, "loss/training", 2.5), (2, "loss/validation", 2.25)]
    assert [v.tag for e in events(tmp_path) for v in e.summary.value if v.HasField("tensor")] == [
        "alerts/text_summary"
    ] * 2


def test_a_resumed_run_tells_tensorboard_where_it_goes_on(tmp_path):
    pb = pytest.importorskip("tensorboardX.proto.event_pb2")
    with EventFile(tmp_path, wanted=True, first_step=4) as file:
        file.add({"step": 5, "loss": 2.5})
    assert [e.step for e in events(tmp_path) if e.session_log.status == pb.SessionLog.START] == [5]


def test_what_was_added_outlives_a_kill_and_two_processes_of_one_second_have_two_files(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    with EventFile(tmp_path, wanted=True) as killed:
        killed.add({"step": 1, "loss": 2.5})
        assert scalars(tmp_path) == [(1, "loss/training", 2.5)]
        monkeypatch.setattr(os, "getpid", lambda: 7)
        with EventFile(tmp_path, wanted=True, first_step=1) as resumed:
            resumed.add({"step": 2, "loss": 2.25})
        assert sorted(scalars(tmp_path)) == [(1, "loss/training", 2.5), (2, "loss/training", 2.25)]


def test_a_full_disk_is_told_once_and_nobody_waits(tmp_path, caplog):
    pytest.importorskip("tensorboardX")
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with caplog.at_level(logging.WARNING), EventFile(tmp_path, wanted=True) as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            for step in range(1, 100):
                file.add({"step": step, "loss": 2.5})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [record.getMessage().count("File too large") for record in caplog.records] == [1]
    assert str(tmp_path) in caplog.text


def test_nothing_is_written_unless_it_is_wanted(tmp_path):
    with EventFile(tmp_path, wanted=False) as file:
        file.add({"step": 1, "loss": 2.5})
    assert list(tmp_path.iterdir()) == []


def test_pytorch_stays_out(tmp_path):
    pytest.importorskip("tensorboardX")
    code = """
import sys
from pathlib import Path
from nanograd.event_file import EventFile
with EventFile(Path(sys.argv[1]), wanted=True) as file:
    file.add({"step": 1, "loss": 2.5, "loss_alert": "step 1: too high"})
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_a_missing_library_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ValueError, match=r"pip install 'nanograd\[tensorboard\]'"):
        EventFile(tmp_path, wanted=True)
