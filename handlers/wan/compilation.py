"""The compiled parts of WAN: the blocks of each transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from handlers.wan.features.acceleration import preferred_attention
from handlers.wan.weights.load import WanPipelines
from shared.models.compilation import CompiledBlocks

# Latent frames, height and width: 33 frames of 480 × 832, and an image of another size, so that no size is compiled as a constant.
_SHAPES = ((9, 60, 104), (1, 78, 78))
_TEXT_TOKENS = 512
_IMAGE_TOKENS = 257  # of CLIP's ViT-H/14


def compiled_transformers(
    pipelines: WanPipelines, *, shapes: Sequence[tuple[int, int, int]] = _SHAPES, backend: Any = "inductor"
) -> Mapping[Any, CompiledBlocks]:
    """Returns what can be compiled of WAN, for clips and images of any size: the blocks of each transformer, by transformer.

    Args:
        pipelines: The loaded pipelines.
        shapes: The latent frames, heights and widths to compile for.
        backend: torch's compiler.
    """
    pairs = ((pipelines.text_to_video, "text to video"), (pipelines.vace, "vace"), (pipelines.image_to_video, "image to video"))
    return {
        pipeline.transformer: CompiledBlocks(
            name,
            pipeline.transformer,
            pipeline.transformer._repeated_blocks,
            [partial(_denoise, pipeline.transformer, shape) for shape in shapes],
            backend=backend,
        )
        for pipeline, name in pairs
        if pipeline is not None
    }


def _denoise(transformer: Any, shape: tuple[int, int, int]) -> None:
    """Calls a transformer as diffusers' pipelines do."""
    config, random = transformer.config, partial(torch.randn, device=transformer.device, dtype=transformer.dtype)
    inputs: dict[str, Any] = {}
    if config.get("vace_in_channels"):
        inputs["control_hidden_states"] = random(1, config.vace_in_channels, *shape)
    if config.image_dim is not None:
        inputs["encoder_hidden_states_image"] = random(1, config.pos_embed_seq_len or _IMAGE_TOKENS, config.image_dim)
    with preferred_attention(transformer.device):
        transformer(
            random(1, config.in_channels, *shape),
            torch.tensor([500.0], device=transformer.device),
            random(1, _TEXT_TOKENS, config.text_dim),
            **inputs,
            return_dict=False,
        )
