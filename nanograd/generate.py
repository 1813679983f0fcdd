"""Floor 5. From a model's logits to text: temperature, top-k, top-p, one token at a time."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from nanograd.decoding import reader
from nanograd.models import DecoderLM


def next_token_probabilities(
    logits: np.ndarray, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> np.ndarray:
    """softmax(logits / temperature) over the tokens that survive top-k and top-p.   (V,) → (V,) float64

    temperature  0 puts everything on the largest logit (the first of equals)
    top_k        keep the k most likely tokens; 0 keeps all (Fan et al. 2018)
    top_p        keep the fewest tokens whose probability reaches p; 1 keeps all (nucleus, Holtzman et al. 2020)
    Raises ValueError for a temperature or top_k below 0, a top_p outside (0, 1], or logits that are not finite.
    """
    if not 0 <= temperature < math.inf or top_k < 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature {temperature} and top_k {top_k} must be ≥ 0, and top_p {top_p} in (0, 1]")
    if not np.isfinite(logits).all():
        raise ValueError("the model's logits hold NaN or infinity: its training diverged, or its weights are damaged")
    logits = logits.astype(np.float64)
    if temperature == 0:
        one_hot: np.ndarray = np.eye(1, len(logits), int(logits.argmax()))[0]
        return one_hot
    order = np.argsort(-logits, kind="stable")  # most likely first; equals in order of their ids
    with np.errstate(over="ignore"):  # −∞ is right: next to nothing at a temperature next to zero
        weights = np.exp((logits[order] - logits[order[0]]) / temperature)
    if top_k:
        weights[top_k:] = 0
    weights /= weights.sum()
    before = np.cumsum(weights) - weights  # what the more likely tokens have already reached
    weights[(before >= top_p) & (top_p < 1)] = 0
    probabilities = np.zeros_like(logits)
    probabilities[order] = weights / weights.sum()
    return probabilities


def generate(
    model: DecoderLM,
    prompt: Sequence[int] | np.ndarray,
    *,
    max_new_tokens: int,
    rng: np.random.Generator,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    stop_id: int | None = None,
    allowed: int | None = None,
) -> Iterator[int]:
    """Yield up to `max_new_tokens` ids that continue `prompt`; ends early at `stop_id`, which is not yielded.

    Only the last `context_length` ids are read. `allowed`: ids from there up are never drawn (rows of the model that
    the tokenizer has no token for). Dropout is off; the model's own mode is restored at the end.
    """
    ids = [int(i) for i in prompt]
    if not ids:
        raise ValueError("generate: the prompt holds no token; begin with the end-of-text token")
    was_training = model.training
    model.eval()
    read = reader(model)
    try:
        for _ in range(max_new_tokens):
            probabilities = next_token_probabilities(
                read(ids)[:allowed], temperature=temperature, top_k=top_k, top_p=top_p
            )
            chosen = int(rng.choice(len(probabilities), p=probabilities))
            if chosen == stop_id:
                return
            ids.append(chosen)
            yield chosen
    finally:
        model.train(was_training)
