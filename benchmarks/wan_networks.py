"""WAN 2.1 VACE 1.3B at full size with random weights: the same speed and memory as the published one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from handlers.wan.weights.load import WanPipelines
from handlers.wan.weights.vace import text_to_video_view


def full_size(tokenizer: Path, device: torch.device) -> WanPipelines:
    """Creates the networks on the device, in the worker's precision.

    Args:
        tokenizer: The tokenizer folder of any WAN.
        device: A GPU with 24 GB; a CPU is very slow.
    """
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanVACEPipeline, WanVACETransformer3DModel
    from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

    with device:
        encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu",
                dtype="bfloat16",
            )
        ).bfloat16()  # fmt: skip
        transformer = WanVACETransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=12, attention_head_dim=128, in_channels=16, out_channels=16, text_dim=4096,
            freq_dim=256, ffn_dim=8960, num_layers=30, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
            vace_layers=list(range(0, 30, 2)), vace_in_channels=96,
        )  # fmt: skip
        vae = AutoencoderKLWan()
    for network in (encoder, _cast_to_bfloat16(transformer), vae):
        network.requires_grad_(False)
        network.eval()
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=5.0)
    components: dict[str, Any] = {"tokenizer": AutoTokenizer.from_pretrained(tokenizer), "text_encoder": encoder, "vae": vae}
    text_to_video = WanPipeline(transformer=text_to_video_view(transformer), scheduler=scheduler, **components)
    vace = WanVACEPipeline(transformer=transformer, scheduler=scheduler, **components)
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
