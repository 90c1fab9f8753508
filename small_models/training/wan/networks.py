"""The small WAN's networks: the architecture of Wan 2.1 VACE with few channels."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel, WanVACETransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanCausalConv3d, WanResidualBlock
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

LATENT_CHANNELS = 16
"""Channels of the latents, as published."""
VACE_CHANNELS = 2 * LATENT_CHANNELS + 64
"""Input channels of the VACE blocks: inactive latents, reactive latents, and the mask of 8 × 8 pixels per latent pixel."""
TEXT_WIDTH = 64
FLOW_SHIFT = 3.0
"""Shift of the noise schedule, as published for small resolutions."""
CONTEXT_LENGTH = 512
"""Text tokens that the transformer attends to, mostly zero padding."""

_LOG_VARIANCE = -6.0
_TEXT_GAIN = 2.0  # initial gain of queries and keys, so that 20 times as many padding tokens do not dominate the attention


def make_vae() -> AutoencoderKLWan:
    """Returns the VAE, untrained: it downsamples time by 4, height and width by 8."""
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    )
    _initialize_near_identity(vae)
    return vae


@torch.no_grad()
def _initialize_near_identity(vae: AutoencoderKLWan) -> None:
    """Initializes weights that pass a single image through: residual branches contribute little, and the posterior has low variance.

    With the default initialization, colors are lost in the network, and thousands of steps do not recover them.
    """
    for module in vae.modules():
        if isinstance(module, (WanCausalConv3d, nn.Conv2d)):
            weight = module.weight[:, :, -1] if isinstance(module, WanCausalConv3d) else module.weight
            weight.normal_(std=weight[0].numel() ** -0.5)
            module.bias.zero_()  # type: ignore[union-attr]  # all of these layers have a bias
    for module in vae.modules():
        if isinstance(module, WanResidualBlock):
            module.conv2.weight.mul_(0.1)
        if isinstance(module, WanAttentionBlock):
            module.proj.weight.mul_(0.1)
    vae.quant_conv.weight[LATENT_CHANNELS:].zero_()
    vae.quant_conv.bias[LATENT_CHANNELS:].fill_(_LOG_VARIANCE)


def make_text_encoder(vocabulary: int) -> UMT5EncoderModel:
    """Returns the text encoder, untrained.

    Args:
        vocabulary: The number of tokens of its tokenizer.
    """
    config = UMT5Config(
        vocab_size=-(-vocabulary // 8) * 8,
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
    """Returns the transformer with its VACE blocks, untrained."""
    transformer = WanVACETransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_WIDTH,
        freq_dim=64,
        ffn_dim=384,
        num_layers=5,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=1024,
        vace_layers=[0, 2],
        vace_in_channels=VACE_CHANNELS,
    )
    for block in (*transformer.blocks, *transformer.vace_blocks):
        nn.init.constant_(block.attn2.norm_q.weight, _TEXT_GAIN)
        nn.init.constant_(block.attn2.norm_k.weight, _TEXT_GAIN)
    for block in transformer.vace_blocks:  # zero-initialized hints, as published
        nn.init.zeros_(block.proj_out.weight)
        nn.init.zeros_(block.proj_out.bias)
    nn.init.zeros_(transformer.proj_out.weight)
    return transformer


def text_to_video_view(transformer: WanVACETransformer3DModel) -> WanTransformer3DModel:
    """Returns the text-to-video transformer within a VACE transformer. The two share their tensors."""
    vace_only = ("vace_layers", "vace_in_channels")
    config = {name: value for name, value in transformer.config.items() if name not in vace_only and not name.startswith("_")}
    view = WanTransformer3DModel.from_config(config)
    for name in ("rope", "patch_embedding", "condition_embedder", "blocks", "norm_out", "proj_out", "scale_shift_table"):
        setattr(view, name, getattr(transformer, name))
    return view


def make_scheduler() -> UniPCMultistepScheduler:
    """Returns the published flow-matching scheduler."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=FLOW_SHIFT)
