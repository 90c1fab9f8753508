"""LoRAs for WAN: the layers of its transformer, under the names that trainers give them."""

from __future__ import annotations

from collections.abc import Mapping

from handlers.wan.request import WanRequest
from handlers.wan.weights.load import WanPipelines
from shared.models.lora_files import LoraTarget, lora_layers
from shared.weights.addons import AddonLibrary

_COMPONENT = "transformer"

# In this order: the original implementation and ComfyUI, kohya's scripts (musubi-tuner), diffusers and peft.
_PREFIXES = {"diffusion_model.": _COMPONENT, "lora_unet_": _COMPONENT, "transformer.": _COMPONENT}

# Ends of layer names, in diffusers and in the original implementation (Wan-Video/Wan2.1, wan/modules/model.py).
_ORIGINAL_NAMES: Mapping[str, str] = {
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


def check(request: WanRequest, addons: AddonLibrary) -> None:
    """Refuses LoRAs that are not installed.

    Raises:
        ModelUnavailable: Names the alternatives.
    """
    for lora in request.loras:
        addons.find("loras", lora.name)


def lora_target(pipelines: WanPipelines) -> LoraTarget:
    """Returns the layers of WAN's transformer. Where two pipelines share a layer's weight, a LoRA is merged for both."""
    per_pipeline = [lora_layers(_COMPONENT, pipeline.transformer) for pipeline in pipelines.all]
    layers = {layer: [found[layer] for found in per_pipeline if layer in found] for layer in per_pipeline[0]}
    return LoraTarget("WAN", layers, _PREFIXES, {layer: _original(layer[1]) for layer in layers})


def _original(name: str) -> str:
    """A layer's name in the original implementation."""
    suffix = next((suffix for suffix in _ORIGINAL_NAMES if name.endswith(suffix)), "")
    return "head.head" if name == "proj_out" else name.removesuffix(suffix) + _ORIGINAL_NAMES.get(suffix, "")
