"""Exit codes, one-line errors, the log file, Ctrl-C, the progress lines."""

import logging
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from nanograd import terminal


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("two\nlines"), 2, "error: two lines"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), 2, "error: a.txt: No such file or directory"),
        (OSError("the disk is full"), 2, "error: the disk is full"),
        (MemoryError(), 2, "error: not enough memory: lower --batch-size"),
        (OSError(28, "No space left on device", "/dev/shm/a"), 2, "error: /dev/shm/a: No space left on device ("),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt(15), 143, "interrupted"),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(error, code, line, capsys):
    def main(argv):
        raise error

    assert terminal.run(main, []) == code
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_a_bug_is_not_hidden():
    def main(argv):
        raise AssertionError("bug")

    with pytest.raises(AssertionError):
        terminal.run(main, [])


def test_success_is_0_and_a_code_is_passed_on():
    assert terminal.run(lambda argv: None, []) == 0
    assert terminal.run(lambda argv: 143, []) == 143


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_leaves_ends_the_program_without_a_word(tmp_path, stream):
    script = tmp_path / "talk.py"
    script.write_text(
        "import sys\nfrom nanograd import terminal\n"
        "def main(argv):\n    while True: print('x' * 1000, file=sys." + stream + ")\n"
        "sys.exit(terminal.run(main))\n"
    )
    command = f"{sys.executable} {script} 2>&1 | head -c 10; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (141, "x" * 10, "")


@pytest.mark.parametrize("name", ["train.log", "100% 'odd' name.log"])
def test_logging_conf_is_found_from_any_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    before = logging.getLogger().handlers[:]
    terminal.configure_logging(tmp_path / name)
    logging.getLogger("nanograd.test").info("hello")
    for handler in logging.getLogger().handlers:
        handler.close()
    logging.getLogger().handlers[:] = before
    assert "INFO nanograd.test: hello" in (tmp_path / name).read_text()


def test_the_first_signal_asks_and_the_second_stops():
    before = signal.getsignal(signal.SIGTERM)
    with terminal.StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.exit_code == 143
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_cleans_up_and_the_old_handler_comes_back(capsys):
    cleaned = []

    def main(argv):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert terminal.run(main, []) == 143
    assert cleaned == [True]
    assert signal.getsignal(signal.SIGTERM) == before


def test_letters_that_the_terminal_does_not_know_are_replaced():
    script = "from nanograd import terminal\nraise SystemExit(terminal.run(lambda argv: print('né \\udcff', end='')))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"n? ?", b"")


def test_progress_without_a_terminal_is_one_line(capsys):
    with terminal.progress_bar("reading") as update:
        update(1, 2)
    assert capsys.readouterr().err.startswith("reading: ")


def test_a_program_s_peak_memory_is_not_that_of_whoever_started_it():
    """As getrusage says on Linux."""
    memory = np.ones(400_000_000, np.uint8)
    script = "from nanograd import terminal; print(terminal.peak_memory_mb())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert terminal.peak_memory_mb() > memory.nbytes / 1e6
    assert 5 < float(done.stdout) < 300
