"""Floor 2. Weights held in 8 or 16 bits and multiplied in float32: less memory for a little precision, in reading only.

The type of the codes says what they are:
int8    q of W ≈ scale q, from −127 to 127; one scale for each row of W (Jacob et al. 2018, arXiv:1712.05877, symmetric)
uint8   fp8 E4M3, 1 bit of sign, 4 of exponent, 3 of mantissa: (−1)ˢ 2ᵉ⁻⁷ (1 + m/8), for e = 0 (−1)ˢ 2⁻⁶ m/8; no
        infinity, NaN is s1111111, the largest number 448; a scale for each row (Micikevicius et al. 2022,
        arXiv:2209.05433, table 1)
uint16  bfloat16, the upper half of a float32; no scale
"""

from typing import Literal, TypeAlias

import numpy as np

from nanograd.backend import Array, ArrayModule
from nanograd.ops.matrix import linear
from nanograd.primitive import Value, primitive

WeightFormat: TypeAlias = Literal["bf16", "int8", "fp8"]

INT8_MAX, E4M3_MAX = 127.0, 448.0


@primitive
def quantized_linear(
    xp: ArrayModule, x: Array, codes: Array, scale: Array = None, bias: Array = None, residual: Array = None
) -> Value:
    """y = (x Wqᵀ) ∘ scale + b + residual.   x (…, in), codes of Wq (out, in), scale (out,), bias (out,) → y (…, out)

    scale, bias and residual (…, out) may be None. A step: no gradient passes, neither to x nor to W.
    """
    y, _ = linear.formula.forward(xp, x, decoded(codes).astype(x.dtype, copy=False))
    for name, row in (("scale", scale), ("bias", bias)):
        if row is not None and row.shape != codes.shape[:1]:
            raise ValueError(f"{name} must be (out,)")
    if residual is not None and residual.shape != y.shape:
        raise ValueError(f"residual must be {y.shape}")
    if scale is not None:
        y *= scale
    for term in (bias, residual):
        if term is not None:
            y += term
    return y, ()


def decoded(codes: Array) -> Array:
    """The numbers that codes stand for, before any scale: float32, exact."""
    if codes.dtype == np.int8:
        return codes.astype(np.float32)
    if codes.dtype == np.uint8:
        return _from_e4m3(codes)
    if codes.dtype == np.uint16:
        return (codes.astype(np.uint32) << 16).view(np.float32)
    raise ValueError("codes must be int8, uint8 (E4M3) or uint16 (bfloat16)")


def _from_e4m3(codes: Array) -> Array:
    """Exponent and mantissa, put where a float32 has them, are the number times 2⁷⁻¹²⁷; denormal ones too."""
    sign, magnitude = (codes & 0x80).astype(np.uint32), (codes & 0x7F).astype(np.uint32)
    nan = (magnitude == 0x7F).astype(np.uint32) * 0x7FC00000
    return (sign << 24 | magnitude << 20 | nan).view(np.float32) * 2.0**120


def encoded(weight: np.ndarray, form: WeightFormat) -> tuple[np.ndarray, np.ndarray | None]:
    """weight (out, in) float32 → codes (out, in), and scale (out,) float32, which bf16 does without.

    Rounded to the nearest, of two equally near to the even one. scale = the largest |W| of a row / the largest code.
    Raises ValueError for a weight that is NaN or infinite.
    """
    if not np.isfinite(weight).all():
        raise ValueError(f"weights hold NaN or infinity, which {form} can't tell from numbers: training diverged?")
    if form == "bf16":
        import ml_dtypes

        return weight.astype(ml_dtypes.bfloat16).view(np.uint16), None
    largest = INT8_MAX if form == "int8" else E4M3_MAX
    scale = np.abs(weight).max(axis=1, initial=0) / np.float32(largest)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)  # a row of zeros, or of less than numbers: never 0 / 0
    ratio = weight / scale[:, None]
    if form == "int8":
        return np.rint(ratio).clip(-INT8_MAX, INT8_MAX).astype(np.int8), scale
    return to_e4m3(ratio), scale


def to_e4m3(x: np.ndarray) -> np.ndarray:
    """The code of the nearest E4M3 number.   float32 → uint8

    Saturating, as the OCP's "8-bit floating point specification" 1.0 calls it: what is above 448, infinity too, becomes
    448; without the clip ml_dtypes would answer NaN. NaN stays NaN.
    """
    import ml_dtypes

    codes: np.ndarray = np.clip(x, -E4M3_MAX, E4M3_MAX).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    return codes
