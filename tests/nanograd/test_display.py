"""What a run shows: plain lines where there is no terminal, a table where there is one, dashes for what isn't known."""

import io

import pytest
from rich.console import Console

from nanograd import display, terminal

RECORD = {"step": 2, "loss": 1.5, "grad_norm": 0.25, "tokens_per_second": 1234.0}


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when told."""
    now = [1000.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_there_are_plain_lines_every_ten_seconds(capsys, clock):
    with display.TrainingDisplay(10, bytes_per_token=2.0) as shown:
        for step in range(1, 10):
            clock[0] += 5
            shown.update({**RECORD, "step": step, "loss": 3.0 - step / 10}, val_loss=1.4 if step > 5 else None)
        shown.print("a [bold] line")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines[:-1]] == ["2/10", "4/10", "6/10", "8/10"]
    assert lines[0].startswith("step 2/10  loss 2.800  smoothed 2.849  val –  bits/byte –  grad 0.25  1,234 tok/s  ")
    assert lines[0].endswith(" MB  ETA 0:40")
    assert "val 1.400  bits/byte 1.010" in lines[2]
    assert lines[-1] == "a [bold] line"


def test_long_remaining_times_have_hours_and_a_minute_has_no_sixty_seconds(clock):
    shown = display.TrainingDisplay(1001, bytes_per_token=2.0)
    shown.update({**RECORD, "step": 1}, val_loss=None)
    clock[0] += 59.96
    shown.update({**RECORD, "step": 1000}, val_loss=None)
    assert shown.figures()["ETA"] == "0:00"
    shown.update({**RECORD, "step": 2}, val_loss=None)
    assert shown.figures()["ETA"] == "16:38:20"
    clock[0] += 1
    shown.update({**RECORD, "step": 1000 - 60}, val_loss=None)
    assert shown.figures()["ETA"] == "0:04"


def test_a_run_that_goes_on_measures_its_own_speed(clock):
    shown = display.TrainingDisplay(200, bytes_per_token=2.0)
    shown.update({**RECORD, "step": 101}, val_loss=None)
    assert shown.figures()["ETA"] == "–"
    clock[0] += 10
    shown.update({**RECORD, "step": 111}, val_loss=None)
    assert shown.figures()["ETA"] == "1:29"


def test_on_a_terminal_there_is_a_table(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        terminal, "console", lambda: Console(file=screen, force_terminal=True, width=100, highlight=False)
    )
    with display.TrainingDisplay(10, bytes_per_token=2.0) as shown:
        assert set(shown.figures().values()) >= {"–"}
        shown.update(RECORD, val_loss=1.4)
        shown.print("step 2: a [bold] sample")
        shown._live.refresh()
    text = screen.getvalue()
    for name in ("step 2/10", "loss", "smoothed", "validation", "bits/byte", "gradient", "tokens/s", "memory", "ETA"):
        assert name in text
    assert "1.500" in text
    assert "1.010" in text
    assert "a [bold] sample" in text


def test_a_loss_that_is_no_number_is_a_dash():
    shown = display.TrainingDisplay(10, bytes_per_token=2.0)
    shown.update({**RECORD, "loss": None, "grad_norm": float("nan")}, val_loss=float("nan"))
    assert [shown.figures()[name] for name in ("loss", "smoothed", "validation", "gradient")] == ["–"] * 4


def test_skipped_steps_are_counted_and_their_loss_is_not(clock, capsys):
    shown = display.TrainingDisplay(10, bytes_per_token=2.0)
    shown.update(RECORD, val_loss=None)
    assert "skipped" not in shown.figures()
    clock[0] += 20
    shown.update({**RECORD, "loss": 50.0, "skipped": "loss 50, …"}, val_loss=None, skipped=3)
    assert (shown.figures()["smoothed"], shown.figures()["skipped"]) == ("1.500", "3")
    assert capsys.readouterr().err.endswith(" skipped 3\n")
