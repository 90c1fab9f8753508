"""Small image-to-video models with random weights, in the configurations of the published ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import torch

Variant = Literal["start", "first and last", "no image encoder"]
_IMAGE_WIDTH, _IMAGE_TOKENS = 32, 17  # of the image encoder's output
_WIDTH = 48


def write_variant(folder: Path, tiny: Path, variant: Variant) -> Path:
    """Writes a diffusers folder.

    Args:
        folder: The folder to create.
        tiny: The small WAN whose text encoder and VAE are copied.
        variant: `start` is configured as the published I2V, `first and last` as FLF2V; `no image encoder` uses encoded frames only.
    """
    from diffusers import WanTransformer3DModel

    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("transformer"))
    torch.manual_seed(3)
    vision: dict[str, Any] = {} if variant == "no image encoder" else {"image_dim": _IMAGE_WIDTH, "added_kv_proj_dim": _WIDTH}
    if variant == "first and last":
        vision["pos_embed_seq_len"] = 2 * _IMAGE_TOKENS
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=4, attention_head_dim=12, in_channels=16 + 4 + 16, out_channels=16, text_dim=32,
        freq_dim=32, ffn_dim=96, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=1024, **vision,
    )  # fmt: skip
    transformer.save_pretrained(folder / "transformer")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "WanImageToVideoPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}
    if vision:
        _write_image_encoder(folder)
        index |= {"image_encoder": ["transformers", "CLIPVisionModel"], "image_processor": ["transformers", "CLIPImageProcessor"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _write_image_encoder(folder: Path) -> None:
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=_IMAGE_WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=224, patch_size=56
    )
    CLIPVisionModel(config).save_pretrained(folder / "image_encoder")
    CLIPImageProcessorPil().save_pretrained(folder / "image_processor")
