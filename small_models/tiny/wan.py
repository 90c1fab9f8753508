"""A tiny WAN: UMT5, the causal VAE (downsampling time by 4, space by 8) and the VACE transformer with its 1 × 2 × 2 patches."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanVACETransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from small_models.tiny.tokenizers import write_json, write_t5

_TEXT_WIDTH = 32
_LATENTS = 16  # latent channels, fixed by the VAE's default means and standard deviations
_MASK = 64  # mask channels: VACE takes the mask of each of the 8 × 8 pixels of a latent pixel
_SHARD = "300KB"
_TEXT_GAIN = 12.0  # with default weights, the prompt would hardly affect the output of so narrow a transformer


def _text_encoder(vocabulary: int) -> UMT5EncoderModel:
    config = UMT5Config(
        vocab_size=-(-vocabulary // 32) * 32,
        d_model=_TEXT_WIDTH,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    return UMT5EncoderModel(config)


def _transformer() -> WanVACETransformer3DModel:
    transformer = WanVACETransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=12,
        in_channels=_LATENTS,
        out_channels=_LATENTS,
        text_dim=_TEXT_WIDTH,
        freq_dim=32,
        ffn_dim=96,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=1024,
        vace_layers=[0],
        vace_in_channels=2 * _LATENTS + _MASK,
    )
    for block in transformer.blocks:
        block.attn2.to_out[0].weight.data.mul_(_TEXT_GAIN)
    return transformer


def _vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=8,
        z_dim=_LATENTS,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )


def _scheduler() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        num_train_timesteps=1000,
        flow_shift=3.0,
    )


def write_wan(folder: Path) -> None:
    """Writes a diffusers folder with the components and file names of the published one and a sharded transformer."""
    vocabulary = write_t5(folder / "tokenizer")
    _text_encoder(vocabulary).save_pretrained(folder / "text_encoder")
    _transformer().save_pretrained(folder / "transformer", max_shard_size=_SHARD)
    _vae().save_pretrained(folder / "vae")
    _scheduler().save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "WanVACEPipeline",
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanVACETransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    write_json(folder / "model_index.json", index)
