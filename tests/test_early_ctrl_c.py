"""Ctrl-C while a command is still being imported ends it by the signal, without a word."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STOP = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(300)\n"
COMMANDS = {
    "nanograd.train": "msgspec",
    "nanograd.sample": "msgspec",
    "nanograd.evaluate": "msgspec",
    "nanograd.plot": "msgspec",
    "pre_process": "numpy",
    "pre_process.tokenizer": "numpy",
    "pre_process.word2vec": "numpy",
    "pre_process.encode_position": "numpy",
}


def hearing() -> None:
    """Whoever started the tests may have made them deaf to Ctrl-C, and with them their processes."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize(("command", "module"), COMMANDS.items())
def test_nothing_is_said_about_an_import_that_was_stopped(command: str, module: str, tmp_path: Path) -> None:
    """The import that is stopped is that of a module of the test's, which has another's name."""
    (tmp_path / f"{module}.py").write_text(STOP)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd())])}
    done = subprocess.run(
        [sys.executable, "-m", command, "--help"], capture_output=True, env=environment, preexec_fn=hearing, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


def test_a_library_leaves_the_handler_as_it_is() -> None:
    script = "import signal, nanograd; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", script], preexec_fn=hearing, check=True)
