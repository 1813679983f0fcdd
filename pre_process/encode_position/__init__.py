"""Where a token stands: four ways of telling the model, one file each.

sinusoidal  fixed vectors, added to the tokens'
learned     free vectors, added to the tokens'
rotary      queries and keys are turned, so that their product knows the distance; rotary_scaling for long contexts
alibi       scores lose by distance
"""

from pre_process.encode_position.alibi import alibi_biases, alibi_slopes
from pre_process.encode_position.learned import learned
from pre_process.encode_position.rotary import frequencies, turn
from pre_process.encode_position.rotary_scaling import Scaling, scaled_frequencies
from pre_process.encode_position.sinusoidal import add_positions, load_positions, save_positions, sinusoidal

__all__ = [
    "Scaling",
    "add_positions",
    "alibi_biases",
    "alibi_slopes",
    "frequencies",
    "learned",
    "load_positions",
    "save_positions",
    "scaled_frequencies",
    "sinusoidal",
    "turn",
]
