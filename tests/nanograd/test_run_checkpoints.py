"""Checkpoints on disk: damage of any kind is noticed, the older one is used, and a power cut leaves a whole one."""

import json
import shutil

import numpy as np
import pytest

from nanograd import terminal, train
from nanograd.io import run_checkpoints
from nanograd.io.checkpoint import CheckpointError
from nanograd.io.run_checkpoints import (
    MANIFEST,
    FormatError,
    all_checkpoints,
    best_checkpoint,
    check_checkpoint,
    newest_valid,
    prune,
    recover,
    write_checkpoint,
)
from pre_process.files import sha256_file
from tests.nanograd.power_cut import PowerCut
from tests.nanograd.same_runs import CHANCE, same_end
from tests.nanograd.small_runs import fails

FILES = ["MANIFEST.json", "config.json", "config.toml", "model.safetensors", "optimizer.safetensors", "state.json",
         "tokenizer.json"]  # fmt: skip


@pytest.fixture(scope="module")
def paused(flags, tmp_path_factory):
    """A run with checkpoints of steps 5 and 10."""
    out = tmp_path_factory.mktemp("paused") / "run"
    assert terminal.run(train.main, [*flags, *CHANCE, "--pause-at", "10", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def whole(paused, tmp_path_factory):
    """The same run, gone on from an undamaged checkpoint."""
    out = shutil.copytree(paused, tmp_path_factory.mktemp("whole") / "run")
    assert terminal.run(train.main, ["--resume", "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(paused, tmp_path):
    return shutil.copytree(paused, tmp_path / "run")


def test_whoever_may_read_the_run_s_metrics_may_read_its_checkpoints(paused):
    asked = (paused / "metrics.jsonl").stat().st_mode
    modes = {path: path.stat().st_mode for folder in all_checkpoints(paused) for path in folder.iterdir()}
    assert {path.name for path in modes} == set(FILES)
    assert [path for path, mode in modes.items() if mode != asked] == []


def test_a_checkpoint_holds_what_its_manifest_says(run):
    for folder, step in zip(all_checkpoints(run), (5, 10), strict=True):
        manifest = check_checkpoint(folder)
        assert manifest.step == step
        assert {path.name for path in folder.iterdir()} == set(FILES) == {*manifest.files, MANIFEST}


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_a_cut_and_a_deleted_file_are_always_noticed(run, name):
    rng, path = np.random.default_rng(len(name)), all_checkpoints(run)[-1] / name
    content = path.read_bytes()
    for place in rng.integers(len(content), size=20):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        for damaged in (bytes(flipped), content[:place]):
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=name):
                check_checkpoint(path.parent)
    path.unlink()
    with pytest.raises(CheckpointError, match=name):
        check_checkpoint(path.parent)
    path.write_bytes(content)
    check_checkpoint(path.parent)


@pytest.mark.parametrize("name", FILES)
def test_the_run_goes_on_from_the_checkpoint_before_a_damaged_one(whole, run, name, capsys):
    path = all_checkpoints(run)[-1] / name
    path.write_bytes(path.read_bytes()[:-7])
    assert terminal.run(train.main, ["--resume", "--out", str(run)]) == 0
    err = capsys.readouterr().err
    assert f"{path}" in err
    assert "going back to step-00000005" in err
    assert (run / "checkpoints" / "damaged-step-00000010" / name).exists()
    same_end(run, whole)


def test_if_all_are_damaged_nothing_is_started_or_deleted(flags, run, capsys):
    for folder in all_checkpoints(run):
        (folder / "model.safetensors").unlink()
    for mode in ("newest", "auto"):
        fails(train.main, [*flags, "--resume", mode, "--out", str(run)], "has no checkpoint that is whole", capsys)
    assert len(all_checkpoints(run)) == 2
    assert (run / "metrics.jsonl").exists()


def test_another_format_is_refused_and_not_taken_for_damage(run, capsys, monkeypatch):
    newest = all_checkpoints(run)[-1]
    with monkeypatch.context() as patch:
        patch.setattr(run_checkpoints, "FORMAT_VERSION", 7)
        shutil.rmtree(newest)
        write(run, 10)
    with pytest.raises(FormatError, match="has format 7, this nanograd reads 1"):
        newest_valid(run)
    fails(train.main, ["--resume", "--out", str(run)], "has format 7", capsys)


def forge(folder, **entries):
    """Other entries in the manifest, signed as if nothing had been."""
    found = json.loads((folder / MANIFEST).read_text())
    del found["sha256"]
    (folder / MANIFEST).write_bytes(run_checkpoints._signed({**found, **entries}))


def test_a_manifest_names_files_of_its_own_folder_and_its_own_step(tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    for name in ("../../outside", str(outside), "..", "", "numbers\0"):
        folder = write(tmp_path, 3)
        forge(folder, files={name: {"size": 6, "sha256": sha256_file(outside)}})
        with pytest.raises(CheckpointError, match="which is no file of that folder"):
            check_checkpoint(folder)
    with pytest.raises(CheckpointError, match="holds the checkpoint of step 4"):
        check_checkpoint(write(tmp_path, 4).rename(folder.with_name("step-00000005")))


def test_a_manifest_with_more_in_it_is_of_another_version_and_named(tmp_path):
    folder = write(tmp_path, 3)
    forge(folder, ranks=2)
    with pytest.raises(FormatError, match=r"MANIFEST.json does not fit this nanograd: .*`ranks`"):
        newest_valid(tmp_path)


def write(run, step, *, val_loss=None, content=b"numbers"):
    def fill(folder):
        (folder / "numbers").write_bytes(content)

    return write_checkpoint(run, fill, step=step, val_loss=val_loss, data_sha256="d", tokenizer_sha256="t")


def test_steps_are_numbers_not_words(tmp_path):
    for step in (99_999_999, 100_000_000, 3):
        write(tmp_path, step)
    (tmp_path / "checkpoints" / "step-1").mkdir()  # somebody else's
    (tmp_path / "checkpoints" / "step-00000009.bak").mkdir()
    assert [path.name for path in all_checkpoints(tmp_path)] == ["step-00000003", "step-99999999", "step-100000000"]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    write(tmp_path, 3, content=b"old")
    folder = write(tmp_path, 3, content=b"new", val_loss=1.0)
    assert (folder / "numbers").read_bytes() == b"new"
    assert check_checkpoint(folder).val_loss == 1.0
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_what_cannot_be_written_leaves_the_old_ones(tmp_path):
    write(tmp_path, 3)

    def fill(folder):
        (folder / "half").write_bytes(b"half")
        raise OSError(28, "No space left on device", str(folder / "half"))

    with pytest.raises(OSError, match="step-00000004") as caught:
        write_checkpoint(tmp_path, fill, step=4, val_loss=None, data_sha256="d", tokenizer_sha256="t")
    assert caught.value.errno == 28
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


def test_the_newest_the_best_and_the_regular_ones_are_kept(tmp_path):
    for step, loss in ((1, 3.0), (2, 1.0), (3, 1.0), (4, None), (5, 2.0), (6, 2.0), (7, 2.0)):
        write(tmp_path, step, val_loss=loss)
    assert best_checkpoint(tmp_path).name == "step-00000002"
    prune(tmp_path, keep=2, keep_every=5)
    assert [int(path.name[5:]) for path in all_checkpoints(tmp_path)] == [2, 5, 6, 7]
    prune(tmp_path, keep=2, keep_every=0)
    assert [int(path.name[5:]) for path in all_checkpoints(tmp_path)] == [2, 6, 7]


def test_what_a_killed_process_left_is_cleared_or_put_back(tmp_path):
    folder = write(tmp_path, 3)
    folder.rename(folder.with_name(".step-00000003.replaced"))  # killed between the two renames of a replacement
    write(tmp_path, 4)
    for name in (".step-00000005.ab_12", ".step-00000002.deleted", ".step-00000004.replaced"):
        (folder.parent / name).mkdir()
    recover(tmp_path)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["step-00000003", "step-00000004"]
    check_checkpoint(folder)


@pytest.mark.parametrize("names_first", [False, True], ids=["names when synced", "names at once"])
def test_after_a_power_cut_at_any_point_there_is_a_whole_checkpoint(tmp_path, names_first):
    """Only what was synced is on the disk; renames may be there before that, and before their files' bytes are."""
    run = tmp_path / "run"
    run.mkdir()
    write(run, 1)
    with PowerCut(run) as power:
        for step in (2, 3, 4):
            write(run, step, content=b"x" * step)
            prune(run, keep=2, keep_every=0)
    states = power.states(names_first=names_first)
    assert len(states) > 20
    newest = []
    for i, state in enumerate(states):
        left = tmp_path / f"left-{i}"
        state.lay_out(left)
        found = newest_valid(left)
        assert found is not None, f"after {state.after}"
        newest.append(found[1].step)
    assert newest == sorted(newest)
    assert newest[-1] == 4
