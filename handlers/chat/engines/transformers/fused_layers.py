"""Decoder layers with fused projections, in place of those of transformers: the same computation in a third of the operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from handlers.chat.engines.transformers.fused_linear import FusedLinear, PackedLinear, can_pack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MakeLinear = Callable[[Sequence[nn.Linear]], FusedLinear]

# Models whose decoder layers are: RMS norm, attention with rotary embeddings, RMS norm, gated feed-forward network. Qwen3 also normalises
# queries and keys.
_MODELS = {"llama", "mistral", "qwen2", "qwen3"}


def fuse(model: PreTrainedModel) -> None:
    """Replaces the decoder layers and the output layer of a model in place. Models of other architectures stay as they are.

    Args:
        model: A frozen causal language model on a CPU. Its old layers are freed one by one, so that no more than one is in memory twice.
    """
    if not _is_supported(model):
        return
    make_linear: MakeLinear = PackedLinear if can_pack(model.dtype) else FusedLinear
    decoder: Any = model.model
    for index, layer in enumerate(decoder.layers):
        decoder.layers[index] = _FusedDecoderLayer(layer, make_linear)
    decoder.norm = _RMSNorm(decoder.norm)
    decoder.rotary_emb = _RotaryEmbedding(decoder.rotary_emb)
    network: Any = model
    network.lm_head = make_linear([network.lm_head])


def _is_supported(model: PreTrainedModel) -> bool:
    config = model.config
    layers = list(getattr(getattr(model, "model", None), "layers", ()))
    known = config.model_type in _MODELS and config.hidden_act == "silu"
    projections = [module for layer in layers for module in layer.modules() if isinstance(module, nn.Linear)]
    # Quantised weights have layer classes of their own.
    return known and all(type(layer) is nn.Linear for layer in projections) and len(projections) == 7 * len(layers)


class _FusedDecoderLayer(nn.Module):
    """A decoder layer. Dimensions: rows × tokens × hidden size.

    Args:
        layer: The layer of transformers that it replaces.
        make_linear: Makes a linear layer of one or more.
    """

    def __init__(self, layer: Any, make_linear: MakeLinear) -> None:
        super().__init__()
        attention, feed_forward = layer.self_attn, layer.mlp
        self._index, self._head_size, self._scaling = attention.layer_idx, attention.head_dim, attention.scaling
        self._kv_heads = attention.k_proj.out_features // self._head_size
        self._heads = attention.q_proj.out_features // self._head_size
        self.qkv = make_linear([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out = make_linear([attention.o_proj])
        self.gate = make_linear([feed_forward.gate_proj])
        self.up = make_linear([feed_forward.up_proj])
        self.down = make_linear([feed_forward.down_proj])
        self.attention_norm, self.feed_forward_norm = _RMSNorm(layer.input_layernorm), _RMSNorm(layer.post_attention_layernorm)
        self.query_norm, self.key_norm = (
            _RMSNorm(getattr(attention, name)) if hasattr(attention, name) else None for name in ("q_norm", "k_norm")
        )

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **_: Any,
    ) -> Tensor:
        """Computes the layer, as transformers calls it.

        Args:
            hidden_states: The input.
            attention_mask: Rows × 1 × tokens × positions, additive or boolean; None: causal, or no mask for a single token.
            past_key_values: The cache; None: none.
            position_embeddings: Cosines and signed sines, from `_RotaryEmbedding`.
        """
        if position_embeddings is None:
            raise ValueError("the layer needs position embeddings")
        query, key, value = self._projections(self.attention_norm(hidden_states), *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self._index)
        attended = self._attention(query, key, value, attention_mask)
        hidden_states = self.out.plus(attended.transpose(1, 2).reshape(*hidden_states.shape[:2], -1), hidden_states)
        normalized = self.feed_forward_norm(hidden_states)
        return self.down.plus(self.up.times(normalized, self.gate.silu(normalized)), hidden_states)

    def _projections(self, x: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries, keys and values, each rows × heads × tokens × head size."""
        joined = self.qkv(x).view(*x.shape[:2], -1, self._head_size)
        rotated = self._normalized(joined[:, :, : self._heads + self._kv_heads])
        # The embedding pairs dimensions that are half a head apart.
        rotated = torch.addcmul(rotated * cosines, rotated.roll(self._head_size // 2, -1), sines).transpose(1, 2)
        return rotated[:, : self._heads], rotated[:, self._heads :], joined[:, :, self._heads + self._kv_heads :].transpose(1, 2)

    def _normalized(self, queries_and_keys: Tensor) -> Tensor:
        if self.query_norm is None or self.key_norm is None:
            return queries_and_keys
        queries, keys = queries_and_keys[:, :, : self._heads], queries_and_keys[:, :, self._heads :]
        return torch.cat((self.query_norm(queries), self.key_norm(keys)), 2)

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Returns rows × heads × tokens × head size. Query heads that share keys are not given copies of them."""
        tokens, grouped = query.shape[2], query.shape[2] == 1
        if grouped:  # as several queries of one head: a tenth faster than `enable_gqa` in float32, and several times in bfloat16
            query = query.reshape(len(query), self._kv_heads, -1, self._head_size)
        causal = mask is None and tokens > 1
        out = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, scale=self._scaling, enable_gqa=not grouped
        )
        return out.reshape(len(out), self._heads, 1, self._head_size) if grouped else out


class _RMSNorm(nn.Module):
    """Root mean square layer normalisation (arXiv 1910.07467).

    Args:
        norm: The norm of transformers that it replaces.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self._epsilon = norm.weight, norm.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, self._epsilon)


class _RotaryEmbedding(nn.Module):
    """Rotary embeddings (arXiv 2104.09864), prepared once per pass for all layers: rows × tokens × 1 × head size.

    Args:
        embedding: The embedding of transformers that it wraps.
    """

    def __init__(self, embedding: Any) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Returns cosines, and sines whose first half is negated."""
        cosines, sines = self.embedding(x, position_ids)
        half = sines.shape[-1] // 2
        return cosines[:, :, None], torch.cat((-sines[..., :half], sines[..., half:]), -1)[:, :, None]
