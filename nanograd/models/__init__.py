"""Models: each is one file with a configuration and a module; presets are configurations with a name."""

from typing import NamedTuple

from nanograd.models.decoder_config import DecoderLMConfig, check_config
from nanograd.models.gpt import Block, DecoderLM
from nanograd.models.presets import PRESETS, count_parameters
from nanograd.models.stretch import stretch


class Architecture(NamedTuple):
    """What belongs together: the settings and the module built from them."""

    config: type[DecoderLMConfig]
    model: type[DecoderLM]


MODELS = {"decoder": Architecture(DecoderLMConfig, DecoderLM)}  # the name that a checkpoint's config.json holds
