"""Floor 5. A decoder-only language model: GPT-2's shape, with the choices of the 2017 Transformer beside it.

Letters: B sequences, T positions, C = d_model, F = d_hidden, V = vocab_size.
"""

import math
from typing import Any, TypeAlias

import numpy as np

from nanograd import backend, nn, ops, random
from nanograd.backend import Array
from nanograd.models.decoder_config import DecoderLMConfig, check_config
from nanograd.nn.recompute import recompute
from nanograd.tensor import Tensor, no_grad
from pre_process.encode_position import alibi_slopes

Norm: TypeAlias = nn.LayerNorm | nn.RMSNorm | nn.DyT | nn.Derf


class Block(nn.Module):
    """Attention, then an MLP, each added to what was there.   (B, T, C) → (B, T, C)

    Matrices that write into the residual stream start smaller by √(2 n_layers): the stream is a sum of 2 n_layers
    such terms, and its variance should not grow with depth (Radford et al. 2019, GPT-2, §2.3). With zero_residuals
    they start as zeros: at first the block passes on what it gets (Zhang et al. 2019, Fixup, arXiv:1901.09321, §3).
    """

    def __init__(self, config: DecoderLMConfig, *, rng: np.random.Generator, keys: random.DropoutKeys) -> None:
        C = config.d_model
        into_residual = 0.0 if config.zero_residuals else config.init_std / math.sqrt(2 * config.n_layers)
        self.norm_1, self.norm_2 = make_norm(config), make_norm(config)
        self.attention = nn.MultiHeadAttention(
            C,
            config.n_heads,
            rng=rng,
            qkv_bias=config.qkv_bias,
            dropout=config.attention_dropout,
            keys=keys,
            std=config.init_std,
            out_std=into_residual,
            rotary_base=config.rotary_base if config.positions == "rotary" else None,
            rotary_layout=config.rotary_layout,
            rotary_scaling=config.scaling,
            qk_norm=config.qk_norm,
            slopes=alibi_slopes(config.n_heads) if config.positions == "alibi" else None,
        )
        self.mlp = nn.MLP(
            C, config.hidden_width, rng=rng, activation=config.activation, std=config.init_std, out_std=into_residual
        )
        self.dropout = nn.Dropout(config.dropout, keys)
        self.pre_norm = config.norm_placement == "pre"

    def forward(self, x: Tensor, padding_mask: Array | None = None, starts: Array | None = None) -> Tensor:
        if self.pre_norm:
            x = self._plus(x, self.attention, self.norm_1(x), padding_mask, starts)
            return self._plus(x, self.mlp, self.norm_2(x))
        x = self.norm_1(self._plus(x, self.attention, x, padding_mask, starts))
        return self.norm_2(self._plus(x, self.mlp, x))

    def _plus(self, x: Tensor, sub_layer: nn.Module, *inputs: Any) -> Tensor:
        """x + dropout(sub_layer(…)); without dropout the sub-layer's last product adds x on its way to memory."""
        if self.dropout.acts:
            return x + self.dropout(sub_layer(*inputs))
        return sub_layer(*inputs, residual=x)


class DecoderLM(nn.Module):
    """Token ids → logits of the next token.   (B, T) → (B, T, V)

    seed        draws the weights (on the host: equal on every device) and the dropout masks
    embeddings  (V, C) vectors to start from, for example word2vec's: the token vectors and the output layer, tied or
                not, get their directions, at the drawn length
    """

    def __init__(self, config: DecoderLMConfig, *, seed: int = 0, embeddings: Array | None = None) -> None:
        check_config(config)
        C, rng = config.d_model, random.generator(seed, "init")
        self.config = config
        self.recompute_blocks = False  # True: keep less for backward, and run each block a second time there
        self.dropout_keys = random.DropoutKeys(seed)
        self.tokens = nn.Embedding(config.vocab_size, C, rng=rng, std=config.token_std)
        self.positions = make_positions(config, rng=rng)
        self.dropout = nn.Dropout(config.embedding_dropout, self.dropout_keys)
        self.blocks = [Block(config, rng=rng, keys=self.dropout_keys) for _ in range(config.n_layers)]
        self.norm = make_norm(config) if config.norm_placement == "pre" else None  # post-norm blocks end in one
        tied = self.tokens.weight if config.tie_embeddings else None
        self.head = nn.Linear(C, config.vocab_size, rng=rng, bias=config.head_bias, std=config.init_std, weight=tied)
        if embeddings is not None:
            for weight in {self.tokens.weight, self.head.weight}:  # one, if they are tied
                weight.data[...] = directions(embeddings, drawn=weight.data)

    def freeze_embeddings(self) -> None:
        """Token vectors keep the values they have. Call it before FlatParameters packs what learns.

        Raises ValueError if they are tied to the output layer: that has to learn.
        """
        if self.head.weight is self.tokens.weight:
            raise ValueError(
                "freeze_embeddings: the output layer is tied to the token vectors: give tie_embeddings=False"
            )
        self.tokens.weight.requires_grad = False

    def forward(self, ids: Array, padding_mask: Array | None = None, documents: Array | None = None) -> Tensor:
        """ids (B, T) integers → logits (B, T, V)

        padding_mask  (B, T) booleans, True = real token
        documents     (B, T) integers, equal along a document: several lie one after the other in a row
        Logits at real tokens depend neither on later tokens nor on padding nor on other documents, and positions begin
        anew in each document: they are those of the document alone. Logits at padding mean nothing.
        """
        return self.head(self.hidden(ids, padding_mask, documents))

    def loss(
        self,
        ids: Array,
        targets: Array,
        padding_mask: Array | None = None,
        documents: Array | None = None,
        **settings: Any,
    ) -> Tensor:
        """Cross-entropy of the logits with targets (B, T), without ever holding all logits.

        settings  ignore_index, label_smoothing, z_loss: those of ops.linear_cross_entropy
        The target of a document's last token is up to the caller: ignore_index, if it would be the next one's first.
        """
        hidden = self.hidden(ids, padding_mask, documents)
        return ops.linear_cross_entropy(hidden, self.head.weight, self.head.bias, targets, **settings)

    def hidden(self, ids: Array, padding_mask: Array | None = None, documents: Array | None = None) -> Tensor:
        """(B, T) → (B, T, C): what the output layer sees. Raises ValueError for ids or masks that don't fit."""
        self._check_inputs(ids, padding_mask, documents)
        starts = None if documents is None else nn.document_starts(documents)
        x = self.embed(ids, padding_mask, starts)
        for block in self.blocks:
            inputs = x, padding_mask, starts
            x = recompute(block, *inputs) if self.recompute_blocks else block(*inputs)
        return x if self.norm is None else self.norm(x)

    def embed(self, ids: Array, padding_mask: Array | None = None, starts: Array | None = None) -> Tensor:
        """(B, T) → (B, T, C): token vectors + position vectors, if there are any: what the first block sees.

        starts (B, T): where each token's document begins.
        """
        x = self.tokens(ids) * self.config.token_scale
        if self.positions is not None:
            x = x + self.positions(nn.token_positions(ids, padding_mask, starts))
        return self.dropout(x)

    def hidden_matrices(self) -> dict[str, tuple[int, ...]]:
        """The matrices of the blocks: name → rows of the maps that lie in it one below the other.

        Queries, keys and values are three maps; SwiGLU's gates and what they let through are two.
        """
        parts = {"qkv.weight": 3, "up.weight": 2 if self.config.activation == "swiglu" else 1}
        found = {}
        for name, parameter in self.named_parameters():
            if name.startswith("blocks.") and parameter.ndim == 2:
                n = next((n for end, n in parts.items() if name.endswith(end)), 1)
                found[name] = (len(parameter) // n,) * n
        return found

    @no_grad()
    def attention_weights(self, ids: Array) -> list[Array]:
        """One array (B, H, T, T) per block: row t says how much position t takes from each earlier one."""
        self._check_inputs(ids, None, None)
        x, weights = self.embed(ids), []
        for block in self.blocks:
            weights.append(block.attention.attention_weights(block.norm_1(x) if block.pre_norm else x))
            x = block(x)
        return weights

    def _check_inputs(self, ids: Array, padding_mask: Array | None, documents: Array | None) -> None:
        if not hasattr(ids, "dtype") or ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise ValueError(f"DecoderLM: ids must be integers of shape (B, T), not {backend.describe(ids)}")
        if not 1 <= ids.shape[1] <= self.config.context_length:
            raise ValueError(f"DecoderLM: {ids.shape[1]} tokens, but context_length is {self.config.context_length}")
        if padding_mask is not None and (padding_mask.shape != ids.shape or padding_mask.dtype != bool):
            raise ValueError(f"DecoderLM: padding_mask must be bool {ids.shape}, not {backend.describe(padding_mask)}")
        if documents is not None and (documents.shape != ids.shape or documents.dtype.kind not in "iu"):
            raise ValueError(f"DecoderLM: documents must be integers {ids.shape}, not {backend.describe(documents)}")


def make_norm(config: DecoderLMConfig) -> Norm:
    """A fresh norm, or its substitute, of the kind that the configuration names."""
    if config.norm_divides:
        return (nn.LayerNorm if config.norm == "layer_norm" else nn.RMSNorm)(config.d_model, eps=config.norm_eps)
    return (nn.DyT if config.norm == "dyt" else nn.Derf)(config.d_model, alpha=config.norm_alpha)


def make_positions(config: DecoderLMConfig, *, rng: np.random.Generator) -> nn.Module | None:
    """The layer that turns positions into vectors; learned ones start as long as the token vectors they join.

    None where positions are no vectors: with rotary each attention turns its queries and keys, with alibi scores fall
    with distance; with none a token knows only which others came before it.
    """
    if config.positions == "sinusoidal":
        return nn.SinusoidalPositions(config.context_length, config.d_model)
    if config.positions == "learned":
        std = config.token_std * config.token_scale
        return nn.LearnedPositions(config.context_length, config.d_model, rng=rng, std=std)
    return None


def directions(vectors: Array, drawn: Array) -> Array:
    """(V, C) vectors from elsewhere, all as long as the drawn ones on average; float32.

    Only directions are taken over. Word vectors of frequent words are many times longer than those of rare ones: as
    rows of a tied output layer they would shout before anything is learned. A row of zeros stays as drawn.
    """
    if tuple(vectors.shape) != drawn.shape:
        raise ValueError(f"embeddings have shape {tuple(vectors.shape)}, the model wants (V, C) = {drawn.shape}")
    if not np.isfinite(vectors).all():
        raise ValueError("embeddings hold infinities or NaNs")
    rms = np.sqrt(np.mean(np.square(vectors, dtype=np.float32), axis=1, keepdims=True))
    return np.where(rms > 0, vectors / np.where(rms > 0, rms, 1) * drawn.std(), drawn).astype(np.float32)
