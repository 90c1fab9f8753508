"""SDXL at full size without weights: the published architectures, created directly on a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.sdxl_memory import REFINER
from handlers.sdxl.features.refiner import RefinerNetwork
from handlers.sdxl.weights.checkpoint import PUBLISHED_CONFIG
from handlers.sdxl.weights.ip_adapter_files import ImageEncoder, IpAdapter
from handlers.sdxl.weights.vae_precision import use_half_precision_decoder
from shared.models.diffusers_folder import LITERAL_SPECIAL_TOKENS, load_scheduler, silence_libraries
from shared.models.lora_files import Lora
from shared.models.lora_names import LoraTarget
from shared.models.lora_updates import LayerUpdate
from shared.models.tokenizers import load_tokenizer

VIT_H: Mapping[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 1024,
}
"""OpenCLIP ViT-H/14, the image encoder of the published adapters (h94/IP-Adapter, models/image_encoder/config.json)."""
_TOKENS = 4

SHALLOW_REFINER: Mapping[str, Any] = {"cross_attention_dim": 64, "projection_class_embeddings_input_dim": 64 + 5 * 256}
"""What differs in the refiner from the UNet of `shallow`."""

_SHALLOW: Mapping[str, Mapping[str, Any]] = {
    "unet": {
        "block_out_channels": (64, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": 1,
        "attention_head_dim": 1,
        "layers_per_block": 1,
        "cross_attention_dim": 128,
        "projection_class_embeddings_input_dim": 64 + 6 * 256,
    },
    "vae": {
        "block_out_channels": (32, 32, 32, 32),
        "layers_per_block": 1,
    },
    "text_encoder": {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 1},
    "text_encoder_2": {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 1, "projection_dim": 64},
}
"""By network: what differs from the published configuration."""

_MINIMAL: Mapping[str, Mapping[str, Any]] = {**_SHALLOW, "unet": {**_SHALLOW["unet"], "block_out_channels": (32, 32), "sample_size": 8}}


def full_size(device: torch.device, dtype: torch.dtype = torch.float16) -> Any:
    """Returns a `StableDiffusionXLPipeline` as loading the published weights gives it: only the VAE's encoder is in float32.

    Args:
        device: A fake CUDA device, or a GPU with 12 GB.
        dtype: The precision of the other networks.
    """
    return _create(device, dtype, {})


def shallow(device: torch.device, dtype: torch.dtype = torch.float16) -> Any:
    """Returns a pipeline as `full_size` does, of networks with few and narrow layers: quick, with the same points where the host waits."""
    return _create(device, dtype, _SHALLOW)


def minimal(device: torch.device) -> Any:
    """Returns a pipeline with as few shapes of blocks in its UNet as there can be, three, in float32 with random weights."""
    return _create(device, torch.float32, _MINIMAL)


def _create(device: torch.device, dtype: torch.dtype, overrides: Mapping[str, Mapping[str, Any]]) -> Any:
    silence_libraries()
    from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def text_config(name: str) -> Any:
        return CLIPTextConfig.from_pretrained(PUBLISHED_CONFIG / name, local_files_only=True, **overrides.get(name, {}))

    def from_config(kind: Any, name: str) -> Any:
        return kind.from_config({**kind.load_config(PUBLISHED_CONFIG / name), **overrides.get(name, {})})

    with device:
        networks: dict[str, Any] = {
            "unet": from_config(UNet2DConditionModel, "unet"),
            "vae": from_config(AutoencoderKL, "vae"),
            "text_encoder": CLIPTextModel(text_config("text_encoder")),
            "text_encoder_2": CLIPTextModelWithProjection(text_config("text_encoder_2")),
        }
    for name, network in networks.items():
        _freeze(network, device, torch.float32 if name == "vae" else dtype)
    if dtype == torch.float16:
        use_half_precision_decoder(networks["vae"])
    tokenizers = {name: _tokenizer(name, networks["text_encoder"]) for name in ("tokenizer", "tokenizer_2")}
    scheduler = load_scheduler(PUBLISHED_CONFIG / "scheduler")
    pipeline = StableDiffusionXLPipeline(**networks, **tokenizers, scheduler=scheduler, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _tokenizer(name: str, encoder: Any) -> Any:
    from transformers import CLIPTokenizer

    size = encoder.config.vocab_size
    return load_tokenizer(
        CLIPTokenizer, PUBLISHED_CONFIG / name, name=name, vocabulary_size=size, required_tokens=(), **LITERAL_SPECIAL_TOKENS
    )


def controlnet(unet: Any) -> Any:
    """Returns a ControlNet of the published size for a UNet."""
    from diffusers import ControlNetModel

    with unet.device:
        network = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    return _freeze(network, unet.device, unet.dtype)


def refiner(unet: Any, config: Mapping[str, Any] = REFINER) -> RefinerNetwork:
    """Returns the refiner, by default of the published size."""
    from diffusers import UNet2DConditionModel

    with unet.device:
        network = UNet2DConditionModel.from_config(dict(config))
    return RefinerNetwork(_freeze(network, unet.device, unet.dtype), requires_aesthetics_score=True)


def image_encoder(unet: Any) -> ImageEncoder:
    """Returns the image encoder of the published IP-Adapters."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    with unet.device:
        model = CLIPVisionModelWithProjection(CLIPVisionConfig(**VIT_H, hidden_act="gelu"))
    return ImageEncoder(_freeze(model, unet.device, unet.dtype), CLIPImageProcessorPil())


def ip_adapter(unet: Any) -> IpAdapter:
    """Returns an IP-Adapter of the published size: four tokens per image."""
    from diffusers.models.embeddings import ImageProjection

    width, context = VIT_H["projection_dim"], unet.config.cross_attention_dim
    with unet.device:
        projection = ImageProjection(width, context, _TOKENS)
        layers = {
            name: tuple(torch.nn.Linear(context, _channels(unet, name), bias=False) for _ in range(2))
            for name in unet.attn_processors
            if name.endswith("attn2.processor")
        }
    for module in (projection, *(module for pair in layers.values() for module in pair)):
        _freeze(module, unet.device, unet.dtype)
    return IpAdapter("full-size", projection, layers, _TOKENS, "projection_dim", width)  # type: ignore[arg-type]  # pairs


def lora(target: LoraTarget, rank: int = 4) -> Lora:
    """Returns a LoRA of every linear layer of a model, with its tensors on the CPU as reading a file leaves them."""
    shapes = {name: layer.weight.shape for name, layer in target.layers.items() if layer.weight.dim() == 2}
    updates = {
        name: LayerUpdate("LoRA", {"up": torch.zeros(shape[0], rank).half(), "down": torch.zeros(rank, shape[1]).half()})
        for name, shape in shapes.items()
    }
    return Lora(updates)


def _channels(unet: Any, processor: str) -> int:
    """The output channels of an attention processor's keys."""
    return int(unet.get_submodule(processor.removesuffix(".processor")).to_k.out_features)


def _freeze(network: Any, device: torch.device, dtype: torch.dtype) -> Any:
    return network.to(device, dtype).requires_grad_(False).eval()
