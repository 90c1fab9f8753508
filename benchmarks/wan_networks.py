"""WAN 2.1 VACE 1.3B at full size with random weights: the same speed and memory as the published one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.sdxl_networks import VIT_H
from handlers.wan.weights.load import WanPipelines
from handlers.wan.weights.vace import text_to_video_view

_ENCODER: Mapping[str, Any] = {
    "vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu",
    "dtype": "bfloat16",
}  # fmt: skip
_TRANSFORMER: Mapping[str, Any] = {
    "patch_size": (1, 2, 2), "num_attention_heads": 12, "attention_head_dim": 128, "in_channels": 16, "out_channels": 16, "text_dim": 4096,
    "freq_dim": 256, "ffn_dim": 8960, "num_layers": 30, "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads",
    "vace_layers": list(range(0, 30, 2)), "vace_in_channels": 96,
}  # fmt: skip
_IMAGE_TO_VIDEO: Mapping[str, Any] = {
    "num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40, "image_dim": 1280, "added_kv_proj_dim": 5120,
}  # fmt: skip
_SHALLOW_ENCODER: Mapping[str, Any] = {"d_model": 64, "d_kv": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2}
_SHALLOW_TRANSFORMER: Mapping[str, Any] = {
    "num_attention_heads": 2, "text_dim": 64, "ffn_dim": 64, "num_layers": 2, "vace_layers": [0],
}  # fmt: skip


def full_size(tokenizer: Path, device: torch.device) -> WanPipelines:
    """Creates the networks on the device, in the worker's precision.

    Args:
        tokenizer: The tokenizer folder of any WAN.
        device: A GPU with 24 GB; a CPU is very slow.
    """
    return _create(tokenizer, device, _ENCODER, _TRANSFORMER)


def shallow(tokenizer: Path, device: torch.device) -> WanPipelines:
    """Creates networks with few and narrow layers: quick, with the same points where the host waits for the device."""
    vae = {"base_dim": 16, "num_res_blocks": 1}
    return _create(tokenizer, device, {**_ENCODER, **_SHALLOW_ENCODER}, {**_TRANSFORMER, **_SHALLOW_TRANSFORMER}, vae)


def shallow_image_to_video(tokenizer: Path, device: torch.device) -> WanPipelines:
    """Creates an image-to-video model with few and narrow layers, without an image encoder."""
    config = {**_TRANSFORMER, **_SHALLOW_TRANSFORMER}
    return _image_to_video(shallow(tokenizer, device), device, config, {"image_encoder": None, "image_processor": None})


def full_size_image_to_video(tokenizer: Path, device: torch.device) -> WanPipelines:
    """Creates WAN 2.1 image to video 14B for 480p.

    Args:
        tokenizer: The tokenizer folder of any WAN.
        device: A fake CUDA device, or a GPU with 80 GB.
    """
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    with device:
        encoder = CLIPVisionModel(CLIPVisionConfig(**VIT_H, hidden_act="gelu")).requires_grad_(False).eval()
    vision = {"image_encoder": encoder, "image_processor": CLIPImageProcessorPil()}
    return _image_to_video(full_size(tokenizer, device), device, {**_TRANSFORMER, **_IMAGE_TO_VIDEO}, vision)


def _image_to_video(base: WanPipelines, device: torch.device, config: Mapping[str, Any], vision: Mapping[str, Any]) -> WanPipelines:
    """Replaces the transformer of a text-to-video model, whose other networks are the same."""
    from diffusers import WanTransformer3DModel

    from handlers.wan.weights.image_to_video import HoldLastFramePipeline

    plain = {key: value for key, value in config.items() if not key.startswith("vace")}
    with device:
        transformer = _cast_to_bfloat16(WanTransformer3DModel(**plain | {"in_channels": 36})).requires_grad_(False).eval()
    pipeline = HoldLastFramePipeline(**base.text_to_video.components | {"transformer": transformer, **vision})
    pipeline.set_progress_bar_config(disable=True)
    return WanPipelines(image_to_video=pipeline)


def _create(
    tokenizer: Path,
    device: torch.device,
    encoder_config: Mapping[str, Any],
    transformer_config: Mapping[str, Any],
    vae_config: Mapping[str, Any] | None = None,
) -> WanPipelines:
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanVACETransformer3DModel
    from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

    from handlers.wan.weights.vace_pipeline import MultiReferenceVacePipeline

    with device:
        encoder = UMT5EncoderModel(UMT5Config(**encoder_config)).bfloat16()
        transformer = WanVACETransformer3DModel(**transformer_config)
        vae = AutoencoderKLWan(**vae_config or {})
    for network in (encoder, _cast_to_bfloat16(transformer), vae):
        network.requires_grad_(False)
        network.eval()
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=5.0)
    components: dict[str, Any] = {"tokenizer": AutoTokenizer.from_pretrained(tokenizer), "text_encoder": encoder, "vae": vae}
    text_to_video = WanPipeline(transformer=text_to_video_view(transformer), scheduler=scheduler, **components)
    vace = MultiReferenceVacePipeline(transformer=transformer, scheduler=scheduler, **components)
    for pipeline in (text_to_video, vace):
        pipeline.set_progress_bar_config(disable=True)
    return WanPipelines(text_to_video, vace)


def _cast_to_bfloat16(transformer: Any) -> Any:
    """Casts to bfloat16, except the modules that the class declares to need float32, as loading does."""
    fp32_modules = tuple(transformer._keep_in_fp32_modules)
    for name, parameter in transformer.named_parameters():
        if not any(part in name for part in fp32_modules):
            parameter.data = parameter.data.bfloat16()
    return transformer
