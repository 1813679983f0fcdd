"""Layers. Each names its parameters, draws their first values, and calls one operation."""

from nanograd.nn.attention import AttentionHead, MultiHeadAttention, allowed_pairs
from nanograd.nn.layers import MLP, Derf, Dropout, DyT, Embedding, LayerNorm, Linear, RMSNorm
from nanograd.nn.module import Buffer, Constant, Module, Parameter
from nanograd.nn.positions import LearnedPositions, SinusoidalPositions, document_starts, token_positions
from nanograd.nn.quantized import QuantizedLinear, QuantizedMLP, quantize_linears
from nanograd.ops.mlp import ACTIVATIONS, Activation
