"""nanograd: the LLM stack you can read. Public names, and the letters that shapes are written with.

    B  sequences in a batch       H  attention heads            V  vocab_size
    T  positions in a sequence    D  width of a head, C / H     L  n_layers
    C  d_model, channels          F  d_hidden, width of the MLP

Read `tensor.py` and `primitive.py` (the engine), then `ops/` (the formulas), `nn/`, `models/gpt.py`, `training_run.py`.
"""

import pre_process  # first: it lets Ctrl-C end a command that is still being imported
from nanograd import backend, nn, ops, profile  # backend first: it has something to say before NumPy is imported
from nanograd.nn import Module, Parameter
from nanograd.tensor import Tensor, no_grad

__all__ = ["Module", "Parameter", "Tensor", "backend", "nn", "no_grad", "ops", "profile"]
