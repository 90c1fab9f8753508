"""LoRAs for WAN: the layers of its transformer, under the names that trainers give them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import nn

from handlers.wan.request import WanRequest
from handlers.wan.weights.load import WanPipelines
from shared.models.lora_names import Layer, LoraLayer, LoraTarget, lora_layers
from shared.weights.addons import AddonLibrary

_COMPONENT = "transformer"

# The original implementation and ComfyUI; kohya's scripts, musubi-tuner and VideoX-Fun (`lora_unet__`); diffusers, peft and OneTrainer;
# DiffSynth. Bare names belong to the transformer.
_PREFIXES = dict.fromkeys(
    (
        "",
        "diffusion_model",
        "model_diffusion_model",
        "lora_unet",
        "transformer",
        "lora_transformer",
        "lycoris",
        "pipe_dit",
        "dit",
    ),
    _COMPONENT,
)

# Layers for images and for VACE's control, which other variants of WAN 2.1 have.
_OPTIONAL = re.compile(r"_(?:k_img|v_img|norm_k_img|add_k_proj|add_v_proj|norm_added_k)$|img_emb|image_embedder|vace_")

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
    "attn2.norm_added_k": "cross_attn.norm_k_img",
    "attn1.norm_q": "self_attn.norm_q",
    "attn1.norm_k": "self_attn.norm_k",
    "attn2.norm_q": "cross_attn.norm_q",
    "attn2.norm_k": "cross_attn.norm_k",
    "norm2": "norm3",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "proj_in": "before_proj",
    "proj_out": "after_proj",
    "scale_shift_table": "modulation",
}

# Whole layer names.
_WHOLE_NAMES: Mapping[str, str] = {"proj_out": "head.head", "scale_shift_table": "head.modulation"}


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
    layers = {layer: _shared(layer, per_pipeline) for layer in per_pipeline[0]}
    return LoraTarget("WAN", layers, _PREFIXES, {layer: _original(layer[1]) for layer in layers}, _OPTIONAL)


def is_in(network: nn.Module, layer: LoraLayer) -> bool:
    """Returns whether a layer belongs to a network: that of text-to-video lacks VACE's."""
    return any(module is each for module in layer.modules for each in network.modules())


def _shared(layer: Layer, per_pipeline: Sequence[Mapping[Layer, LoraLayer]]) -> LoraLayer:
    """One layer in all pipelines that have it."""
    found = [layers[layer] for layers in per_pipeline if layer in layers]
    return LoraLayer(tuple(module for each in found for module in each.modules), found[0].parameter)


def _original(name: str) -> str:
    """A layer's name in the original implementation."""
    if name in _WHOLE_NAMES:
        return _WHOLE_NAMES[name]
    suffix = max((suffix for suffix in _ORIGINAL_NAMES if name.endswith(f".{suffix}") or name == suffix), key=len, default="")
    return name.removesuffix(suffix) + _ORIGINAL_NAMES.get(suffix, "")
