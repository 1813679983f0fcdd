"""What the first start on a machine compiles: the kernels of the default run, and nothing that no kernel asked for."""

import os
import subprocess
import sys

import pytest

from nanograd.kernels.compilation import PARTS

COMPILE = """
import sys
import numba.core.event as event
from nanograd.settings import PRESETS
from nanograd.warm_up import Kind, warm_up

class Listener(event.Listener):
    def on_start(self, found):
        function = found.data["dispatcher"].py_func
        print(function.__module__ + "." + function.__qualname__)
    def on_end(self, found):
        pass

event.register("numba:compile", Listener())
config = PRESETS["tiny"]
optim = config.optim.resolved(accumulate=config.accumulate)
warm_up(Kind(config.model, optim, config.matmul_precision, config.loader.layout), sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_no_error_message_is_compiled(part, tmp_path):
    """Assigning a slice to a slice compiles the message for lengths that differ, and with it Numba's strings: 1.7 s."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE, part], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    compiled = done.stdout.split()
    assert len([name for name in compiled if name.startswith("nanograd.kernels.cpu.")]) > 20
    assert [name for name in compiled if "unicode" in name or "builtins.ol_str" in name] == []
