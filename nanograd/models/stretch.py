"""Floor 5. A trained model on longer texts: the same weights, another context, other positions where they allow it."""

from typing import Any

from msgspec.structs import replace

from nanograd.models.gpt import DecoderLM


def stretch(model: DecoderLM, context_length: int, **rotary: Any) -> DecoderLM:
    """A copy of the model for sequences of up to `context_length` tokens, in evaluation mode, on the same device.

    rotary  rotary_scaling and rotary_factor, if the model has rotary positions; rotary_original_context is its own
    Nothing is learned: whether the model understands distances that it never saw is another question. ALiBi and
    scaled rotary positions were made for it. Raises ValueError for learned positions, of which there are no more.
    """
    config = model.config
    if config.positions == "learned" and context_length > config.context_length:
        raise ValueError(
            f"learned positions end at {config.context_length}: for {context_length} tokens train a model with "
            "alibi, rotary or sinusoidal positions"
        )
    if rotary.get("rotary_scaling") in ("dynamic", "yarn", "llama3"):
        rotary.setdefault("rotary_original_context", config.context_length)
    longer = DecoderLM(replace(config, context_length=context_length, **rotary))
    longer.load_state_dict(model.state_dict())
    return longer.eval().to(model.tokens.weight.device)
