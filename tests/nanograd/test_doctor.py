"""The doctor: whatever is there or missing, a table, advice with commands, and exit code 0."""

import collections
import importlib.metadata
import os
import subprocess
import sys

import msgspec
import pytest

from nanograd import backend, doctor, findings, gpus, terminal


def looked(*sections):
    """The findings of these sections, by name."""
    return {finding.name: finding for section in sections for finding in findings.SECTIONS[section]()}


@pytest.fixture
def with_gpu(monkeypatch):
    """A machine with a GPU and nothing installed for it."""

    def missing(package):
        if package.startswith(("cupy", "nvidia")):
            raise importlib.metadata.PackageNotFoundError(package)
        return "1.2.3"

    def no_cupy(device):
        raise backend.DeviceError(f"device {device!r} needs CuPy")

    monkeypatch.setattr(gpus, "gpus", lambda: [gpus.Gpu("NVIDIA H200", 90, 140 << 30), gpus.Gpu("Tesla V100", 70, 1)])
    monkeypatch.setattr(gpus, "driver_version", lambda: (12, 8))
    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(backend, "check_device", no_cupy)


def test_the_command_prints_every_section_and_ends_well(capsys):
    assert terminal.run(doctor.main, []) == 0
    out = capsys.readouterr().out
    for section in findings.SECTIONS:
        assert section in out
    assert "missing for speed:" in out or "nothing is missing" in out


def test_json_holds_the_same(capsys):
    assert terminal.run(doctor.main, ["--json"]) == 0
    found = msgspec.json.decode(capsys.readouterr().out, type=list[findings.Finding])
    assert {f.section for f in found} == set(findings.SECTIONS)
    assert {"CPU", "CPU features", "numpy", "BLAS", "CuPy", "kernels (Numba)", "for the CPU", "cache"} <= {
        f.name for f in found
    }


@pytest.mark.usefixtures("with_gpu")
def test_a_gpu_without_libraries_gets_the_commands_that_install_them(capsys):
    found = looked("devices", "libraries")
    assert found["cuda:0"].value == "NVIDIA H200, sm_90, 140 GiB"
    assert found["cuda:0"].mend == "pip install 'nanograd[cuda12]'"
    assert found["cuda:1"].missing == "too old for the CUDA kernels, which need sm_80 or newer"
    assert found["NVIDIA driver"].value == "runs CUDA 12.8"
    for name in ("CuPy", "NVRTC", "cuBLASLt"):
        assert found[name].mend == "pip install 'nanograd[cuda12]'"
    assert not found["cuDNN"].missing  # nothing here needs it
    doctor._print(list(found.values()))
    assert "    pip install 'nanograd[cuda12]'\n" in capsys.readouterr().out.partition("missing for speed:")[2]


def test_without_a_gpu_its_libraries_are_not_missed(monkeypatch):
    monkeypatch.setattr(gpus, "gpus", list)
    assert not any(f.missing for f in looked("libraries").values())


def test_cores_that_stay_idle_and_threads_that_wait_are_told(monkeypatch):
    monkeypatch.setattr(findings, "_usable_cores", lambda: 1000)
    assert looked("threads")["kernels (Numba)"].mend == "export NUMBA_NUM_THREADS=1000"
    monkeypatch.setattr(findings, "_usable_cores", lambda: 0)
    assert "wait for each other" in looked("threads")["kernels (Numba)"].missing


def test_kernels_that_are_off_and_a_folder_without_any(monkeypatch, tmp_path):
    monkeypatch.setenv("NANOGRAD_KERNELS", "0")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    found = looked("kernels")
    assert found["compiled twins"].mend == "unset NANOGRAD_KERNELS"
    assert found["for the CPU"].value == f"none yet in {tmp_path}"
    assert found["for the CPU"].mend
    (tmp_path / "one.nbc").touch()
    assert looked("kernels")["for the CPU"].value == f"1 in {tmp_path}"


def test_a_full_disk_is_told(monkeypatch):
    usage = collections.namedtuple("usage", "total used free")(10**9, 10**9, 10**6)
    monkeypatch.setattr(findings.shutil, "disk_usage", lambda path: usage)
    found = looked("disk")
    assert found["runs"].missing.startswith("little room")
    assert found["cache"].mend.startswith("rm -r ")


def test_a_folder_that_cannot_be_written_is_told_and_not_removed(monkeypatch):
    monkeypatch.setattr(findings.os, "access", lambda path, mode: False)
    found = looked("disk")["cache"]
    assert found.value.endswith(", can't be written")
    assert (found.missing, found.mend) == (
        "nothing can be kept there",
        "python -m nanograd.train --cache /another/disk",
    )


def test_a_question_that_fails_is_an_answer(monkeypatch, capsys):
    def broken():
        raise OSError("libcuda.so.1:\n file too short")

    monkeypatch.setattr(findings, "SECTIONS", {"devices": broken})
    assert findings.all_findings() == [
        findings.Finding("devices", "not known", "OSError: libcuda.so.1: file too short")
    ]
    assert terminal.run(doctor.main, []) == 0
    assert "file too short" in capsys.readouterr().out


def test_it_is_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "nanograd.doctor", "--json"], capture_output=True, check=False, timeout=300,
        env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert msgspec.json.decode(done.stdout, type=list[findings.Finding])
