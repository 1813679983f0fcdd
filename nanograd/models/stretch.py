"""Floor 5. A trained model on longer texts: the same weights, another context, other positions where they allow it."""

from typing import Any

from msgspec.structs import replace

from nanograd.models.decoder_config import DecoderLMConfig
from nanograd.models.gpt import DecoderLM
from pre_process.encode_position.rotary_scaling import Kind

_COUNT_FROM_TRAINING = ("dynamic", "yarn", "llama3")  # these ask which context the model was trained for


def stretch(
    model: DecoderLM, context_length: int, *, rotary_scaling: Kind = "none", rotary_factor: float | None = None
) -> DecoderLM:
    """A copy of the model for sequences of up to `context_length` tokens, in evaluation mode, on the same device.

    rotary_scaling  for rotary positions: how they are slowed down; "none" leaves them as they are
    rotary_factor   by how much (None: by as much as the context grows; for "dynamic" 1, it goes by the text's length)
    Nothing is learned: whether the model understands distances that it never saw is another question. ALiBi and
    scaled rotary positions were made for it. Raises ValueError for learned positions, of which there are no more.
    """
    config = model.config
    if config.positions == "learned" and context_length > config.context_length:
        raise ValueError(
            f"learned positions end at {config.context_length}: for {context_length} tokens train a model with "
            "alibi, rotary or sinusoidal positions"
        )
    changes = _scaling(config, context_length, rotary_scaling, rotary_factor)
    longer = DecoderLM(replace(config, context_length=context_length, **changes))
    longer.load_state_dict(model.state_dict())
    return longer.eval().to(model.tokens.weight.device)


def _scaling(config: DecoderLMConfig, context_length: int, kind: Kind, factor: float | None) -> dict[str, Any]:
    if kind == "none":
        own = config.scaling  # whose original context must not grow with the other
        keep = own is not None and own.kind in _COUNT_FROM_TRAINING
        return {"rotary_original_context": own.original_context} if own is not None and keep else {}
    if factor is None:
        factor = 1.0 if kind == "dynamic" else max(1.0, context_length / config.context_length)
    changes: dict[str, Any] = {"rotary_scaling": kind, "rotary_factor": factor, "rotary_original_context": None}
    return changes | ({"rotary_original_context": config.context_length} if kind in _COUNT_FROM_TRAINING else {})
