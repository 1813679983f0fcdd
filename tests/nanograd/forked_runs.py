"""Training runs as processes that start quickly, to be killed: forked from one that has loaded all but the kernels.

The kernels' threads would not outlive the fork.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys

SERVER = """
import json, os, signal, sys
import matplotlib.figure, rich.progress, rich.table, tyro
import numba
from nanograd import terminal, train
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
answers = os.dup(1)
print("ready", flush=True)
def main(argv):
    os.write(answers, b"%d\\n" % os.getpid())  # from here on signals are heard
    return train.main(argv)
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if not child:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os._exit(terminal.run(main, order["argv"]))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class RunServer:
    """Starts one run after the other. As a context manager it ends with the block.

    kernels  False: the formulas alone, which start at once
    """

    def __init__(self, log, *, kernels):
        self.log = log
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "NANOGRAD_KERNELS": str(int(kernels))},
        )
        assert self._line() == "ready"

    def start(self, argv):
        """Have it begin; it hears signals from here on."""
        self._server.stdin.write(json.dumps({"argv": argv, "log": str(self.log)}).encode() + b"\n")
        self.process = int(self._line())

    def ended(self, timeout):
        """Wait that many seconds at most: the exit code, or None if the run goes on."""
        if not select.select([self._server.stdout], [], [], timeout)[0]:
            return None
        return int(self._line())

    def send(self, number):
        """A signal, unless the run has ended by itself."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, number)

    def kill(self):
        """SIGKILL; the exit code, which is not −9 if the run was quicker."""
        self.send(signal.SIGKILL)
        return int(self._line())

    def _line(self):
        return self._server.stdout.readline().decode().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.kill()
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()
