"""The pictures of positions, and the command that draws them."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from pre_process.encode_position.__main__ import main
from pre_process.encode_position.sinusoidal import save_positions

pytest.importorskip("matplotlib", reason="draws the pictures")


@pytest.mark.parametrize(
    "arguments",
    [
        "sinusoidal",
        "sinusoidal --context-length 2 --d-model 2",
        "learned",
        "rotary",
        "rotary --d-head 2",
        "rotary --scaling yarn --factor 8 --original-context 64",
        "rotary --scaling dynamic",
        "alibi --heads 12",
        pytest.param("alibi --heads 1000", marks=pytest.mark.filterwarnings("error")),
        "alibi --heads 1 --context-length 2",
        "all",
    ],
)
def test_every_kind_has_a_picture(arguments: str, tmp_path: Path) -> None:
    assert main(["draw", *arguments.split(), "--out", str(tmp_path / "p.png")]) == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_learned_positions_of_a_model(tmp_path: Path) -> None:
    table = np.random.default_rng(0).standard_normal((9, 4), np.float32)
    safetensors.numpy.save_file({"positions.weight": table}, tmp_path / "model.safetensors")
    save_positions(tmp_path / "table.npy", table)
    for name in ("model.safetensors", "table.npy"):
        assert main(["draw", "learned", "--table", str(tmp_path / name), "--out", str(tmp_path / f"{name}.svg")]) == 0
        assert (tmp_path / f"{name}.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sinusoidal --d-model 3", "error: need context_length >= 0 and an even d_model >= 2, not 128 and 3"),
        ("sinusoidal --context-length 1", "error: --context-length 1: a picture needs 2 positions"),
        ("rotary --d-head 5", "error: need an even d_head >= 2 and a finite base above 0, not 5 and 10000.0"),
        ("rotary --base inf", "error: --base inf: a picture has room for numbers up to 1e+12"),
        ("rotary --base 1e308", "error: --base 1e+308: a picture has room"),
        ("rotary --scaling yarn --factor inf", "error: --factor inf: a picture has room"),
        ("rotary --scaling yarn --factor nan", "error: --factor nan: a picture has room"),
        ("rotary --factor 8", "error: --factor and --original-context belong to a --scaling: name one"),
        ("rotary --scaling yarn --factor 0.5", "error: rotary scaling needs a factor >= 1"),
        ("alibi --heads 0", "error: need at least one head, not 0"),
        ("learned --table nowhere.npy", "error: nowhere.npy is missing"),
        ("learned --table FOLDER", "error: FOLDER can't be read (Is a directory)"),
        ("learned --table nowhere.safetensors", "error: "),
    ],
)
def test_what_makes_no_picture(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "FOLDER").mkdir()
    given = [str(tmp_path / word) if word == "FOLDER" else word for word in arguments.split()]
    assert main(["draw", *given, "--out", str(tmp_path / "p.png")]) == 2
    said = capsys.readouterr().err.replace(str(tmp_path / "FOLDER"), "FOLDER")
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "p.png").exists()


@pytest.mark.parametrize("content", [b"", b"no tensors"])
def test_a_damaged_model(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    table = str(tmp_path / "model.safetensors")
    assert main(["draw", "learned", "--table", table, "--out", str(tmp_path / "p.png")]) == 2
    assert "is damaged" in capsys.readouterr().err


def test_a_model_without_learned_positions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    safetensors.numpy.save_file({"w": np.zeros(1, np.float32)}, tmp_path / "m.safetensors")
    assert main(["draw", "learned", "--table", str(tmp_path / "m.safetensors"), "--out", str(tmp_path / "p.png")]) == 2
    assert "holds no learned positions: train with --positions learned" in capsys.readouterr().err


def test_a_picture_has_a_kind_of_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["draw", "alibi", "--out", str(tmp_path / "p.jpeg")])
    assert stop.value.code == 2
    assert "must end in .png, .svg or .pdf" in capsys.readouterr().err
