"""Floor 6. What can be counted before anything is measured: arithmetic per token, bytes, peaks of known cards."""

from nanograd.models import DecoderLMConfig, count_parameters

PEAKS = {  # dense bf16 FLOP/s, from NVIDIA's data sheets
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "B200": 2250e12,
}


def peak_of(name: str) -> float | None:
    """By the card's name, or None."""
    return next((peak for part, peak in PEAKS.items() if all(word in name for word in part.split())), None)


def flops_per_token_llmc(config: DecoderLMConfig, tokens: int) -> float:
    """6 P + 6 L C T: all parameters; attention's pairs counted once, since half of them are masked.

    Source: llm.c, train_gpt2.cu, gpt2_estimate_mfu.   tokens = T, the length of a row
    """
    return 6 * count_parameters(config) + 6 * config.n_layers * config.d_model * tokens


def flops_per_token_palm(config: DecoderLMConfig, tokens: int) -> float:
    """6 N + 12 L C T: without position vectors, which are only added; attention as if nothing were masked.

    Source: Chowdhery et al., "PaLM", 2022, appendix B; nanoGPT's estimate_mfu
    """
    positions = config.context_length * config.d_model if config.positions == "learned" else 0
    return 6 * (count_parameters(config) - positions) + 12 * config.n_layers * config.d_model * tokens


def model_flops_utilization(config: DecoderLMConfig, tokens_per_second: float, peak: float) -> dict[str, float]:
    """MFU by both conventions: the share of the peak that a model's own arithmetic amounts to."""
    T = config.context_length
    return {
        "mfu_llmc": flops_per_token_llmc(config, T) * tokens_per_second / peak,
        "mfu_palm": flops_per_token_palm(config, T) * tokens_per_second / peak,
    }


def floor_seconds(*, n_bytes: float, flops: float, bandwidth: float, rate: float) -> float:
    """The least time a kernel can take: what it moves at the measured copy rate, or computes at that of a product."""
    return max(n_bytes / bandwidth, flops / rate)
