"""Writers for small add-ons with random weights, in the formats of their trainers and publishers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPVisionConfig, CLIPVisionModelWithProjection

from handlers.sdxl.weights.original_names import unet_name, vae_name
from small_models.tiny.sdxl import tiny_vae

NamingScheme = Literal["kohya", "kohya with diffusers' names", "diffusers", "peft"]
NAMING_SCHEMES: tuple[NamingScheme, ...] = get_args(NamingScheme)

_COMPONENTS = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
RANK = 4


def lora_layers(pipeline: Any, component: str) -> Iterable[tuple[str, Any]]:
    """The layers that LoRAs usually target: attention, and in the text encoders also the MLPs."""
    for name, module in getattr(pipeline, component).named_modules():
        if isinstance(module, nn.Linear) and (".attn" in name or "self_attn" in name or ".mlp." in name):
            yield name, module


def write_lora(path: Path, pipeline: Any, naming: NamingScheme, *, seed: int = 0, alpha: float = RANK, size: float = 0.3) -> None:
    """Writes a LoRA with random factors for all three networks of a pipeline."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for component in _COMPONENTS:
        for name, module in lora_layers(pipeline, component):
            down = torch.randn(RANK, module.in_features, generator=generator) * size
            up = torch.randn(module.out_features, RANK, generator=generator) * size
            tensors |= _named(pipeline, naming, component, name, down, up, alpha)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def _named(pipeline: Any, naming: NamingScheme, component: str, name: str, down: Tensor, up: Tensor, alpha: float) -> dict[str, Tensor]:
    full = name if component == "unet" or name.startswith("text_model.") else f"text_model.{name}"
    if naming.startswith("kohya"):
        if component == "unet" and naming == "kohya":
            config = pipeline.unet.config
            has_attention = tuple("CrossAttn" in kind for kind in config.up_block_types)
            full = unet_name(f"{name}.weight", config.layers_per_block, has_attention).removesuffix(".weight")
        flat = f"{_COMPONENTS[component]}_{full.replace('.', '_')}"
        return {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.tensor(float(alpha))}
    if naming == "diffusers":
        word = "lora" if component == "unet" else "lora_linear_layer"
        return {f"{component}.{full}.{word}.down.weight": down, f"{component}.{full}.{word}.up.weight": up}
    return {f"{component}.{full}.lora_A.weight": down, f"{component}.{full}.lora_B.weight": up}


def write_vae(folder: Path, *, seed: int = 1, overflows: bool = True) -> dict[str, Tensor]:
    """Writes a VAE with the architecture of the tiny SDXL's, and returns its tensors."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        vae = tiny_vae(force_upcast=overflows)
    vae.save_pretrained(folder)
    tensors: dict[str, Tensor] = {name: tensor.contiguous() for name, tensor in vae.state_dict().items()}
    return tensors


def to_original_layout(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A VAE's tensors in the original implementation's layout."""
    return {
        prefix + vae_name(name, 4): tensor[:, :, None, None].contiguous() if ".attentions." in name and tensor.ndim == 2 else tensor
        for name, tensor in tensors.items()
    }


def write_image_encoder(folder: Path, *, hidden: int = 40, projected: int = 24, seed: int = 0) -> None:
    """Writes a CLIP vision model with random weights, for images of 32 × 32."""
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        image_size=32,
        patch_size=8,
        hidden_size=hidden,
        intermediate_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=projected,
        initializer_factor=5.0,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder)


def write_ip_adapter(path: Path, pipeline: Any, *, plus: bool = False, encoder_width: int | None = None, seed: int = 0) -> None:
    """Writes an IP-Adapter, or an IP-Adapter Plus, with random weights for a pipeline, in the published layout.

    Args:
        path: A `.safetensors` file.
        pipeline: What it is for.
        plus: Which of the two.
        encoder_width: The width of the image encoder's output that it reads; that of `write_image_encoder` by default.
        seed: Draws the weights.
    """
    generator, unet = torch.Generator().manual_seed(seed), pipeline.unet
    width = unet.config.cross_attention_dim
    shapes = _plus_projection(encoder_width or 40, width) if plus else _plain_projection(encoder_width or 24, width)
    has_attention = [name.removesuffix(".processor") for name in unet.attn_processors if name.endswith("attn2.processor")]
    for index, name in enumerate(has_attention):
        layer = unet.get_submodule(name)
        shapes |= {f"ip_adapter.{2 * index + 1}.to_{part}_ip.weight": getattr(layer, f"to_{part}").weight.shape for part in "kv"}
    tensors = {name: torch.randn(*shape, generator=generator) * (1 if len(shape) == 1 else 0.3) for name, shape in shapes.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


Shapes = dict[str, tuple[int, ...]]


def _plain_projection(encoder_width: int, width: int) -> Shapes:
    names: Shapes = {"proj.weight": (4 * width, encoder_width), "proj.bias": (4 * width,), "norm.weight": (width,), "norm.bias": (width,)}
    return {f"image_proj.{name}": shape for name, shape in names.items()}


def _plus_projection(encoder_width: int, width: int, inner: int = 64) -> Shapes:
    names: Shapes = {"latents": (1, 16, inner), "proj_in.weight": (inner, encoder_width), "proj_in.bias": (inner,)}
    names |= {"proj_out.weight": (width, inner), "proj_out.bias": (width,), "norm_out.weight": (width,), "norm_out.bias": (width,)}
    for depth in range(4):
        names |= {f"layers.{depth}.0.norm{index}.{part}": (inner,) for index in (1, 2) for part in ("weight", "bias")}
        names |= {f"layers.{depth}.0.to_q.weight": (inner, inner), f"layers.{depth}.0.to_kv.weight": (2 * inner, inner)}
        names |= {f"layers.{depth}.0.to_out.weight": (inner, inner)}
        names |= {f"layers.{depth}.1.0.weight": (inner,), f"layers.{depth}.1.0.bias": (inner,)}
        names |= {f"layers.{depth}.1.1.weight": (4 * inner, inner), f"layers.{depth}.1.3.weight": (inner, 4 * inner)}
    return {f"image_proj.{name}": shape for name, shape in names.items()}


def write_safety_checker(folder: Path, *, threshold: float) -> None:
    """Writes a small safety checker with random concepts. A threshold of -1 flags every image, 1 none."""
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = text | {"image_size": 32, "patch_size": 8, "projection_dim": 16}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        checker = StableDiffusionSafetyChecker(CLIPConfig(projection_dim=16, text_config=text, vision_config=vision))
        checker.concept_embeds.data.normal_()
        checker.special_care_embeds.data.normal_()
    checker.concept_embeds_weights.data.fill_(threshold)
    checker.special_care_embeds_weights.data.fill_(2.0)
    checker.save_pretrained(folder)
