"""Floor 5. Model shapes with a name, and the arithmetic of their size."""

from nanograd.models.decoder_config import DecoderLMConfig

PRESETS: dict[str, DecoderLMConfig] = {
    "tiny": DecoderLMConfig(
        vocab_size=4096,
        context_length=128,
        n_layers=4,
        d_model=192,
        n_heads=6,
        activation="swiglu",
        positions="rotary",
        norm="rms_norm",
        qk_norm=True,
        zero_residuals=True,
        qkv_bias=False,
        tie_embeddings=False,
    ),
    "small": DecoderLMConfig(vocab_size=8192, context_length=256, n_layers=6, d_model=384, n_heads=6),
    # the characters of an ASCII text (256 bytes and 2 special tokens): for benchmarks.speedrun
    "speedrun": DecoderLMConfig(
        vocab_size=258,
        context_length=64,
        n_layers=4,
        d_model=48,
        n_heads=2,
        activation="swiglu",
        positions="rotary",
        norm="rms_norm",
        qk_norm=True,
        zero_residuals=True,
        qkv_bias=False,
    ),
    # PsyDuck's GPT, 60,910,517 parameters; the original has one output more than tokens, which nothing ever asks for
    "psyduck-60m": DecoderLMConfig(
        vocab_size=100_277,
        context_length=128,
        n_layers=12,
        d_model=256,
        n_heads=8,
        activation="relu",
        dropout=0.1,
        attention_dropout=0.1,
        qkv_bias=False,
        head_bias=True,
        tie_embeddings=False,
        scale_embeddings=False,
        embedding_std=1.0,
    ),
    # GPT-2's layout with a vocabulary of 60,000: 131,529,216 parameters
    "llm-small-131m": DecoderLMConfig(
        vocab_size=60_000,
        context_length=512,
        n_layers=12,
        d_model=768,
        n_heads=12,
        positions="learned",
        scale_embeddings=False,
        embedding_std=0.02,
    ),
}


def count_parameters(config: DecoderLMConfig) -> int:
    """How many numbers a DecoderLM of this shape learns, without making one."""
    V, C, F = config.vocab_size, config.d_model, config.hidden_width
    norm = {"layer_norm": 2 * C, "rms_norm": C, "dyt": 2 * C + 1, "derf": 2 * C + 2}[config.norm]
    attention = 3 * C * C + 3 * C * config.qkv_bias + C * C + C
    mlp = config.up_width * C + config.up_width + F * C + C
    blocks = config.n_layers * (attention + mlp + 2 * norm)
    positions = config.context_length * C if config.positions == "learned" else 0
    final_norm = norm if config.norm_placement == "pre" else 0
    head = V * C * (not config.tie_embeddings) + V * config.head_bias
    return V * C + positions + blocks + final_norm + head
