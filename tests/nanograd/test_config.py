"""Settings: preset, then TOML, then flags; unknown names and impossible values are refused in one line."""

import io
from typing import Annotated

import msgspec
import pytest

from nanograd.config import ConfigError, _without_box, from_command_line, from_preset, read_toml, to_toml
from nanograd.settings import PRESETS, TrainConfig


class Engine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    cylinders: Annotated[int, msgspec.Meta(ge=1)] = 4
    """how many"""
    fuel: str | None = None
    """what it drinks"""
    thirst: float = 5.0
    """litres for 100 km"""


class Car(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    preset: str = "city"
    """where the defaults come from"""
    config: str | None = None
    """TOML file"""
    seats: int = 4
    """places"""
    engine: Engine = Engine()
    """what moves it"""

    def __post_init__(self) -> None:
        if self.seats == 1 and self.engine.cylinders > 2:
            raise ValueError(f"a car with {self.engine.cylinders} cylinders needs more than 1 seats")


CARS = {"city": Car(), "truck": Car(preset="truck", seats=2, engine=Engine(cylinders=8))}


def parse(*argv: str) -> Car:
    return from_command_line(CARS, argv, prog="car", about="A car.")


def test_flags_beat_the_file_and_the_file_beats_the_preset(tmp_path):
    file = tmp_path / "car.toml"
    file.write_text('preset = "truck"\nseats = 3\n[engine]\nfuel = "diesel"\n')
    assert parse() == Car()
    assert parse("--preset", "truck").engine.cylinders == 8
    assert parse("--config", str(file)) == Car(
        preset="truck", config=str(file), seats=3, engine=Engine(cylinders=8, fuel="diesel")
    )
    assert parse("--config", str(file), "--seats", "1", "--cylinders", "2").engine == Engine(cylinders=2, fuel="diesel")


def test_a_preset_on_the_command_line_beats_the_one_in_the_file(tmp_path):
    file = tmp_path / "car.toml"
    file.write_text('preset = "truck"\n')
    assert parse("--config", str(file), "--preset", "city").engine.cylinders == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seat = 3", "unknown setting 'seat': did you mean 'seats'"),
        ("[engine]\ncylinder = 3", r"unknown setting 'engine.cylinder': did you mean 'engine.cylinders'"),
        ("cylinders = 3", "unknown setting 'cylinders': did you mean 'engine.cylinders'"),
        ("[engine]\ncylinders = 0", "--cylinders: Expected `int` >= 1"),
        ('seats = "many"', "--seats: Expected `int`, got `str`"),
        ("engine = 3", "--engine: Expected `object`, got `int`"),
        ('preset = "tuck"', "no preset is called 'tuck': did you mean 'truck'.*there are city, truck"),
        ("preset = 3", "no preset is called 3"),
        ("preset = []", r"no preset is called \[\]"),
        ("[engine]\nthirst = nan", "--thirst: nan is not a finite number"),
        ("[engine]\nthirst = inf", "--thirst: inf is not a finite number"),
        ("seats = ", "is not a TOML file"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, content, message):
    file = tmp_path / "car.toml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        parse("--config", str(file))
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.toml: No such file"):
        read_toml(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not a TOML file"):
        read_toml(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cylinders", "0"], "--cylinders: Expected `int` >= 1, got 0"),
        (["--thirst", "-inf"], "--thirst: -inf is not a finite number"),
        (["--cylnders", "3"], r"--cylnders, 3 \(did you mean --cylinders\?\); car --help"),
        (["--seats", "many"], "--seats: invalid literal for int.*'many'; car --help"),
        (["--seats"], "Missing value for argument '--seats'"),
        (["--preset"], "Missing value for argument '--preset'"),
        (["--preset", "--seats", "3"], "Missing value for argument '--preset'"),
        (["--seats", "1"], "a car with 4 cylinders needs more than 1 seats"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_wrong_flag_is_refused_in_one_line(argv, message, encoding, monkeypatch):
    """tyro draws boxes, plainer ones where the terminal knows no Unicode; colours are for terminals only."""
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    monkeypatch.setenv("COLUMNS", "40")
    with pytest.raises(ConfigError, match=message) as caught:
        parse(*argv)
    assert str(caught.value).isprintable()
    assert "──" not in str(caught.value)


def test_colours_are_taken_out_of_an_error():
    box = "\x1b[31m╭─ Value error ─╮\x1b[0m\n│ \x1b[1mno such\x1b[0m │\n│ thing. │\n│ ─── │\n│ For help │\n╰─╯\n"
    assert _without_box(box) == "no such thing"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_survives_toml(name, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(to_toml(PRESETS[name]))
    assert PRESETS[name].preset == name
    assert from_preset(PRESETS, None, read_toml(file)) == PRESETS[name]


def test_every_setting_of_training_has_help_and_its_own_flag():
    flags = [field.name for kind in (TrainConfig, *GROUPS) for field in msgspec.structs.fields(kind)]
    assert len(flags) == len(set(flags)), "two settings share a flag"


GROUPS = [
    f.type
    for f in msgspec.structs.fields(TrainConfig)
    if isinstance(f.type, type) and issubclass(f.type, msgspec.Struct)
]


def test_the_help_text_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        from_command_line(PRESETS, ["--help"], prog="python -m nanograd.train", about="Train.")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for kind in (TrainConfig, *GROUPS):
        for field in msgspec.structs.fields(kind):
            if field.type not in GROUPS:
                assert f"--{field.name.replace('_', '-')}" in text or f"--no-{field.name.replace('_', '-')}" in text
