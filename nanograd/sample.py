"""Floor 6. Continue a text with a trained model: python -m nanograd.sample RUN --prompt "Once upon a time" """

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from nanograd import kernels, random, terminal
from nanograd.config import parse_flags
from nanograd.generate import generate
from nanograd.io.checkpoint import load_model
from nanograd.models import stretch
from nanograd.models.quantized import Weights, hold_weights
from nanograd.precision import Precision, float_type
from pre_process.encode_position.rotary_scaling import Kind

ABOUT = (__doc__ or "").removeprefix("Floor 6. ")


class SampleConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Continue a text with a trained model. The text alone goes to standard output."""

    run: str
    """run folder that nanograd.train made"""
    prompt: str = ""
    """text to continue (empty: begin a new document)"""
    max_new_tokens: Annotated[int, msgspec.Meta(ge=0)] = 200
    """longest continuation; it ends earlier where the model ends the document"""
    temperature: Annotated[float, msgspec.Meta(ge=0)] = 0.8
    """below 1 bolder, above 1 wilder, 0 always the likeliest token"""
    top_k: Annotated[int, msgspec.Meta(ge=0)] = 0
    """draw from the k likeliest tokens (0: from all)"""
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.95
    """draw from the fewest tokens whose probabilities add up to p"""
    seed: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """the same seed gives the same text (None: a new one each time)"""
    context_length: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """tokens that are read at once (None: as many as in training); more is understood with alibi or scaled rotary"""
    rotary_scaling: Kind = "none"
    """for rotary positions and a longer context: how they are slowed down"""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if one can be used, else the CPU"""
    precision: Precision = "float32"
    """what the model computes in; bf16 and fp16 are for GPUs: on the CPU they run by the plain formulas, slowly"""
    weights: Weights = "float32"
    """how the matrices of the blocks are held: bf16, int8 or fp8 (E4M3) need less memory; products stay float32"""


def main(argv: Sequence[str] | None = None) -> None:
    """Print the prompt and its continuation as it grows. Raises ValueError and OSError on bad input."""
    config = parse_flags(SampleConfig, argv, prog="python -m nanograd.sample", about=ABOUT)
    terminal.configure_logging()
    device = terminal.chosen_device(config.device)
    model, tokenizer = load_model(Path(config.run), device=device)
    if device != "cpu":  # there without a wait; and CuPy's own products can't be part of a CUDA graph
        kernels.load(device=device)
    if config.context_length is not None:
        model = stretch(model, config.context_length, rotary_scaling=config.rotary_scaling)
    elif config.rotary_scaling != "none":
        raise ValueError("--rotary-scaling is for a longer context: give --context-length too")
    model.astype(float_type(config.precision))
    if said := hold_weights(model, config.weights, precision=config.precision):
        print(said, file=sys.stderr)
    ids = [tokenizer.end_of_text_id, *tokenizer.encode(config.prompt)]
    if len(ids) > model.config.context_length:
        print(f"only the last {model.config.context_length} of {len(ids)} prompt tokens are read", file=sys.stderr)
    seed = secrets.randbits(64) if config.seed is None else config.seed
    continuation = generate(
        model,
        ids,
        max_new_tokens=config.max_new_tokens,
        rng=random.generator(seed, "sample"),
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        stop_id=tokenizer.end_of_text_id,
        allowed=tokenizer.vocab_size,
    )
    decoder = tokenizer.stream_decoder()
    print(config.prompt, end="", flush=True)
    for token_id in continuation:
        print(decoder.feed(token_id), end="", flush=True)
    print(decoder.finish())


if __name__ == "__main__":
    sys.exit(terminal.run(main))
