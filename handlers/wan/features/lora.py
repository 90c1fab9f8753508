"""LoRAs for WAN: which layers of its transformer they add to."""

from __future__ import annotations

from collections.abc import Mapping

from handlers.wan.weights.load import WanPipelines
from shared.models.lora_files import Target, layers_of

_COMPONENT = "transformer"

# The original implementation's and ComfyUI's files, kohya's scripts (musubi-tuner), then diffusers and peft.
_BEGINNINGS = {"diffusion_model.": _COMPONENT, "lora_unet_": _COMPONENT, "transformer.": _COMPONENT}

# What the original implementation (Wan-Video/Wan2.1, wan/modules/model.py) calls parts of a layer's name.
_ORIGINALS: Mapping[str, str] = {
    "attn1.to_q": "self_attn.q",
    "attn1.to_k": "self_attn.k",
    "attn1.to_v": "self_attn.v",
    "attn1.to_out.0": "self_attn.o",
    "attn2.to_q": "cross_attn.q",
    "attn2.to_k": "cross_attn.k",
    "attn2.to_v": "cross_attn.v",
    "attn2.to_out.0": "cross_attn.o",
    "attn2.add_k_proj": "cross_attn.k_img",
    "attn2.add_v_proj": "cross_attn.v_img",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
}


def target(pipelines: WanPipelines) -> Target:
    """The layers of WAN's transformer. Where two views share a layer's weight, both get what a LoRA adds."""
    views = [layers_of(_COMPONENT, pipeline.transformer) for pipeline in pipelines.all]
    layers = {layer: [view[layer] for view in views if layer in view] for layer in views[0]}
    return Target("WAN", layers, _BEGINNINGS, {layer: _original(layer[1]) for layer in layers})


def _original(name: str) -> str:
    """A layer's name as the original implementation has it."""
    ending = next((ending for ending in _ORIGINALS if name.endswith(ending)), "")
    return "head.head" if name == "proj_out" else name.removesuffix(ending) + _ORIGINALS.get(ending, "")
