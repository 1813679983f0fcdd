"""Floor 5. The settings of a decoder language model: its shape, and how its weights are drawn."""

import math
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from nanograd import nn
from pre_process.encode_position.rotary import Layout
from pre_process.encode_position.rotary_scaling import Kind, Scaling

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
Share: TypeAlias = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Positive: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]
Norm: TypeAlias = Literal["layer_norm", "rms_norm", "dyt", "derf"]
Positions: TypeAlias = Literal["sinusoidal", "learned", "rotary", "alibi", "none"]

ROTARY_DEFAULTS: dict[str, Any] = {
    "rotary_base": 10_000.0,
    "rotary_layout": "halves",
    "rotary_scaling": "none",
    "rotary_factor": 1.0,
    "rotary_original_context": None,
}


class DecoderLMConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of a decoder language model and how its weights are drawn."""

    vocab_size: Count = 4096  # number of different tokens
    context_length: Count = 128  # longest sequence, in tokens
    n_layers: Count = 4  # transformer blocks
    n_heads: Count = 6  # attention heads in a block; must divide d_model
    d_model: Count = 192  # width of the residual stream
    d_hidden: Count | None = None  # width inside the MLP; None means 4 × d_model, for swiglu 8/3 × d_model
    activation: nn.Activation = "gelu"  # what bends the MLP
    positions: Positions = "sinusoidal"  # how a token knows its place
    rotary_base: Positive = 10_000.0  # rotary positions: the slowest pair turns once in 2π rotary_base tokens
    rotary_layout: Layout = "halves"  # rotary positions: pairs of neighbours, or of the two halves of a head
    rotary_scaling: Kind = "none"  # rotary positions: how they are slowed down for a longer context
    rotary_factor: Annotated[float, msgspec.Meta(ge=1)] = 1.0  # rotary scaling: how many times as long it is
    rotary_original_context: Count | None = None  # rotary scaling: trained for; None means context_length / factor
    norm: Norm = "layer_norm"  # layer norm centres and scales, RMS norm only scales, dyt and derf only squash
    norm_placement: Literal["pre", "post"] = "pre"  # pre: x + f(norm(x)), post: norm(x + f(x))
    norm_eps: Positive = 1e-5  # added to the variance in every norm that has one
    norm_alpha: Positive = 0.5  # dyt and derf: first factor of their inputs, best near 1 / their size
    dropout: Share = 0.0  # share of each sub-layer's output zeroed in training
    attention_dropout: Share = 0.0  # share of attention weights zeroed in training
    embedding_dropout: Share = 0.0  # share of the first block's input zeroed in training
    qk_norm: bool = False  # bring the queries and keys of each head to one length (ops.packed_head_norm)
    qkv_bias: bool = True  # add a bias to queries, keys and values
    head_bias: bool = False  # add a bias to the logits
    tie_embeddings: bool = True  # use the token embeddings as output layer too
    scale_embeddings: bool = True  # multiply token vectors by √d_model, so that sinusoids don't drown them
    embedding_std: Positive | None = None  # standard deviation of the first token vectors; None means 0.28 / √d_model
    init_std: Positive = 0.02  # standard deviation of the first weight matrices
    zero_residuals: bool = False  # matrices that write into the residual stream begin as zeros (see gpt.Block)

    def __post_init__(self) -> None:
        if self.n_heads > 0 and self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not divisible by n_heads {self.n_heads}")
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"d_model {self.d_model} is odd: sinusoidal positions pair sines with cosines")
        if self.norm_eps != 1e-5 and not self.norm_divides:
            raise ValueError(f"norm_eps: for layer_norm and rms_norm; {self.norm} divides by no variance")
        if self.norm_alpha != 0.5 and self.norm_divides:
            raise ValueError(f"norm_alpha: for dyt and derf, not {self.norm}")
        if self.positions == "rotary":
            self._check_rotary()
        elif rotary := [name for name, value in ROTARY_DEFAULTS.items() if getattr(self, name) != value]:
            raise ValueError(f"{', '.join(rotary)}: for positions rotary, not {self.positions}")

    def _check_rotary(self) -> None:
        if self.n_heads > 0 and self.d_model // self.n_heads % 2:
            raise ValueError(
                f"d_model / n_heads = {self.d_model // self.n_heads} is odd: rotary positions turn pairs of numbers"
            )
        if self.rotary_scaling == "none":
            if self.rotary_factor != 1 or self.rotary_original_context:
                raise ValueError("rotary_factor and rotary_original_context need a rotary_scaling, for example yarn")
            return
        if self.rotary_original_context and self.rotary_scaling in ("linear", "ntk"):
            raise ValueError(f"rotary_original_context means nothing to rotary_scaling {self.rotary_scaling}")
        if self.rotary_factor == 1 and not (self.rotary_scaling == "dynamic" and self.rotary_original_context):
            raise ValueError(f"rotary_scaling {self.rotary_scaling} needs a rotary_factor above 1")
        if not self.rotary_base > 1:
            raise ValueError(f"rotary_scaling {self.rotary_scaling} needs a rotary_base above 1")

    @property
    def norm_divides(self) -> bool:
        """Whether norms divide by what they measure in a row; dyt and derf take each number by itself."""
        return self.norm in ("layer_norm", "rms_norm")

    @property
    def scaling(self) -> Scaling | None:
        """rotary_scaling with all that it needs; None if there is none."""
        if self.rotary_scaling == "none":
            return None
        original = self.rotary_original_context or max(1, round(self.context_length / self.rotary_factor))
        return Scaling(self.rotary_scaling, self.rotary_factor, original)

    @property
    def hidden_width(self) -> int:
        """F, whether d_hidden was given or not.

        SwiGLU has three matrices where others have two: at two thirds of the width they are as large (Shazeer 2020).
        That is rounded up to a multiple of 32, a whole number of the product's tiles.
        """
        if self.d_hidden is not None:
            return self.d_hidden
        return 4 * self.d_model if self.activation != "swiglu" else 32 * math.ceil(8 * self.d_model / 3 / 32)

    @property
    def up_width(self) -> int:
        """Rows of the MLP's first matrix: SwiGLU has gates too."""
        return 2 * self.hidden_width if self.activation == "swiglu" else self.hidden_width

    @property
    def token_std(self) -> float:
        """Standard deviation of the first token vectors, whether embedding_std was given or not.

        With tied embeddings a token's vector also asks for that token as the next one: its own logit starts near
        d_model · token_std. 0.28 / √d_model is GPT-2's 0.02 at width 192, and keeps that echo quiet in wider models.
        """
        return self.embedding_std or 0.28 / math.sqrt(self.d_model)

    @property
    def token_scale(self) -> float:
        """What token vectors are multiplied by when they enter the first block."""
        return math.sqrt(self.d_model) if self.scale_embeddings else 1.0


def check_config(config: DecoderLMConfig) -> None:
    """Raise msgspec.ValidationError (a ValueError) if a field is out of bounds: the constructor doesn't look."""
    msgspec.convert(msgspec.to_builtins(config), type(config))
