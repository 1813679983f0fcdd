"""Floor 5. A trained model with the matrices of its blocks in 8 or 16 bits: what --weights does."""

from typing import Literal, TypeAlias

from nanograd import nn
from nanograd.models.gpt import DecoderLM
from nanograd.precision import Precision

Weights: TypeAlias = Literal["float32", "bf16", "int8", "fp8"]


def hold_weights(model: DecoderLM, weights: Weights, *, precision: Precision = "float32") -> str | None:
    """Change the model in place. Returns a line that says how many bytes it has now; None for float32, which it has.

    Norms, biases, positions, token vectors and the output layer stay float32. Of the token vectors only the asked rows
    are read, the output layer may be the same array, and its errors go into the logits directly: LLM.int8()
    (Dettmers et al. 2022, arXiv:2208.07339) and GPTQ (Frantar et al. 2023, arXiv:2210.17323) spare both too.
    Raises ValueError if the model computes in another precision than float32, and for weights that are NaN or infinite.
    """
    if weights == "float32":
        return None
    if precision != "float32":
        raise ValueError(f"--weights {weights} are multiplied in float32: leave out --precision {precision}")
    before = model.nbytes()
    for block in model.blocks:
        nn.quantize_linears(block, weights)
    return f"weights: {model.nbytes():,} bytes instead of {before:,}, the matrices of the blocks as {weights}"
