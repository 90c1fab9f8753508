"""The small WAN's parts: the published layout of Wan 2.1 VACE, narrow."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel, WanVACETransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanCausalConv3d, WanResidualBlock
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

LATENTS = 16
"""Channels of the latents, as published."""
CONTROL = 2 * LATENTS + 64
"""Channels of what the VACE blocks see: inactive latents, reactive latents, and a mask of 8 × 8 pixels per cell."""
TEXT_WIDTH = 64
SHIFT = 3.0
"""How far the schedule is shifted towards noise, as published for small pictures."""
WINDOW = 512
"""Tokens of a prompt, zeros for the most part, that the transformer attends to."""

_LOG_VARIANCE = -6.0
_TEXT_GAIN = 2.0  # of queries and keys: zeros are 20 times as many as words, which at first would drown in them


def make_vae() -> AutoencoderKLWan:
    """The VAE, untrained: time divided by four, height and width by eight."""
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=LATENTS,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * LATENTS,
        latents_std=[1.0] * LATENTS,
    )
    _start_linear(vae)
    return vae


@torch.no_grad()
def _start_linear(vae: AutoencoderKLWan) -> None:
    """Weights that hand a single picture on: shortcuts keep its size, what is beside them adds little, latents have little noise.

    With the default weights, colors are lost on the way, and thousands of steps do not bring them back.
    """
    for module in vae.modules():
        if isinstance(module, (WanCausalConv3d, nn.Conv2d)):
            weight = module.weight[:, :, -1] if isinstance(module, WanCausalConv3d) else module.weight
            weight.normal_(std=weight[0].numel() ** -0.5)
            module.bias.zero_()  # type: ignore[union-attr]  # all of them have one
    for module in vae.modules():
        if isinstance(module, WanResidualBlock):
            module.conv2.weight.mul_(0.1)
        if isinstance(module, WanAttentionBlock):
            module.proj.weight.mul_(0.1)
    vae.quant_conv.weight[LATENTS:].zero_()
    vae.quant_conv.bias[LATENTS:].fill_(_LOG_VARIANCE)


def make_text_encoder(tokens: int) -> UMT5EncoderModel:
    """The text encoder, untrained.

    Args:
        tokens: The number of tokens of its tokenizer.
    """
    config = UMT5Config(
        vocab_size=-(-tokens // 8) * 8,
        d_model=TEXT_WIDTH,
        d_kv=16,
        d_ff=2 * TEXT_WIDTH,
        num_layers=3,
        num_heads=4,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=32,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    return UMT5EncoderModel(config)


def make_transformer() -> WanVACETransformer3DModel:
    """The transformer with its VACE blocks, untrained."""
    transformer = WanVACETransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=LATENTS,
        out_channels=LATENTS,
        text_dim=TEXT_WIDTH,
        freq_dim=64,
        ffn_dim=384,
        num_layers=5,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=1024,
        vace_layers=[0, 2],
        vace_in_channels=CONTROL,
    )
    for block in (*transformer.blocks, *transformer.vace_blocks):
        nn.init.constant_(block.attn2.norm_q.weight, _TEXT_GAIN)
        nn.init.constant_(block.attn2.norm_k.weight, _TEXT_GAIN)
    for block in transformer.vace_blocks:  # hints begin at nothing, as published
        nn.init.zeros_(block.proj_out.weight)
        nn.init.zeros_(block.proj_out.bias)
    nn.init.zeros_(transformer.proj_out.weight)
    return transformer


def without_vace(transformer: WanVACETransformer3DModel) -> WanTransformer3DModel:
    """The part that makes video from text alone. It shares its tensors with the whole."""
    left_out = ("vace_layers", "vace_in_channels")
    config = {name: value for name, value in transformer.config.items() if name not in left_out and not name.startswith("_")}
    plain = WanTransformer3DModel.from_config(config)
    for name in ("rope", "patch_embedding", "condition_embedder", "blocks", "norm_out", "proj_out", "scale_shift_table"):
        setattr(plain, name, getattr(transformer, name))
    return plain


def make_scheduler() -> UniPCMultistepScheduler:
    """The published solver for flows."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=SHIFT)
