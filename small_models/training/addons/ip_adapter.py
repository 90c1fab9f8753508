"""Trains an IP-Adapter, which conditions the small SDXL on an image in addition to the prompt or instead of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.embeddings import ImageProjection
from safetensors.torch import save_file
from torch import Tensor, nn

from small_models.build_cache import make_world_readable
from small_models.training.addons.base_model import FrozenSdxl, train_addon
from small_models.training.addons.image_encoder import EMBEDDING_SIZE, embed_images
from small_models.training.loop import TrainingConfig
from small_models.training.sdxl.captions import caption
from small_models.training.sdxl.dataset import Scene, generate_dataset, render
from small_models.training.sdxl.unet import LatentDataset, NoiseSampler, text_conditioning

FILE_NAME = "small.safetensors"
_TOKENS = 4  # per image
_BATCH = 24
_IMAGES = 8000
_PAIRS = 0.15  # fraction of images with two figures
_CAPTION_DROPOUT = 0.7  # fraction of empty captions
_IMAGE_DROPOUT = 0.1  # fraction of zeroed image embeddings, for classifier-free guidance
_PRETRAINING_STEPS, _PRETRAINING_BATCH, _PRETRAINING_RATE = 400, 256, 5e-3
_CROSS_ATTENTION = "attn2.processor"  # name suffix of the processors of text cross-attention

State = dict[str, dict[str, Tensor]]
"""An IP-Adapter in the published layout: the weights of `image_proj` and `ip_adapter`."""


def train_ip_adapter(sdxl: FrozenSdxl, encoder: Any, folder: Path, config: TrainingConfig, seed: int) -> None:
    """Trains the adapter and saves it in half precision.

    A reference shows the same scene as its target image but is rendered anew, so the two differ by up to a pixel in position and size.

    Args:
        sdxl: The base model; the adapter remains in its UNet.
        encoder: The trained image encoder.
        folder: The folder for `FILE_NAME`.
        config: The hyperparameters.
        seed: Seeds data, weights and noise.
    """
    torch.manual_seed(seed)
    adapter = add_ip_adapter(sdxl.unet)
    scenes, images = generate_dataset(_IMAGES, seed, pairs=_PAIRS)
    rng = np.random.default_rng((seed, 1))
    embeddings = embed_images(encoder, np.stack([render(scene, rng) for scene in scenes]))
    projection = sdxl.unet.encoder_hid_proj.image_projection_layers[0]
    _pretrain_projection(projection, embeddings, _end_token_states(sdxl, scenes, rng), rng)
    train_addon(adapter, _loss(sdxl, sdxl.encode_dataset(scenes, images), embeddings, seed), config)
    flat = {f"{part}.{name}": weight for part, weights in adapter_state(sdxl.unet).items() for name, weight in weights.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.to(torch.float16).contiguous() for name, weight in flat.items()}, folder / FILE_NAME)
    make_world_readable(folder)


def add_ip_adapter(unet: Any) -> nn.Module:
    """Adds an adapter to a UNet: an untrained projection, and image keys and values initialized from those of the text.

    Returns:
        The trainable modules that were added.
    """
    unet._load_ip_adapter_weights([_initial_state(unet)], low_cpu_mem_usage=False)
    return nn.ModuleList([unet.encoder_hid_proj, *_processors(unet)]).requires_grad_(True)


def _initial_state(unet: Any) -> State:
    projection = ImageProjection(EMBEDDING_SIZE, unet.config.cross_attention_dim, _TOKENS)
    layers = [unet.get_submodule(name.removesuffix(".processor")) for name in unet.attn_processors if name.endswith(_CROSS_ATTENTION)]
    weights = {
        f"{2 * index + 1}.to_{part}_ip.weight": getattr(layer, f"to_{part}").weight.clone()
        for index, layer in enumerate(layers)
        for part in "kv"
    }
    return {"image_proj": _published_names(projection), "ip_adapter": weights}


@torch.no_grad()
def _end_token_states(sdxl: FrozenSdxl, scenes: list[Scene], rng: np.random.Generator) -> Tensor:
    """Returns the text encoder states of the captions' end tokens, which summarize the captions."""
    texts = [caption(scene, rng) for scene in scenes]
    return torch.cat([sdxl.encoders(texts[start : start + 250])[2] for start in range(0, len(texts), 250)])


def _pretrain_projection(projection: Any, embeddings: Tensor, states: Tensor, rng: np.random.Generator) -> None:
    """Fits the image tokens to the captions' end-token states. Text states are ten times as large as the output of a new layer norm."""
    projection.norm.weight.data.copy_(states.std(0))
    projection.norm.bias.data.copy_(states.mean(0))
    optimizer = torch.optim.AdamW(projection.parameters(), lr=_PRETRAINING_RATE)
    for step in range(_PRETRAINING_STEPS):
        optimizer.param_groups[0]["lr"] = _PRETRAINING_RATE * (1 - step / _PRETRAINING_STEPS)
        chosen = torch.from_numpy(rng.integers(len(states), size=_PRETRAINING_BATCH))
        optimizer.zero_grad()
        targets = states[chosen, None].expand(-1, _TOKENS, -1)
        loss = nn.functional.mse_loss(projection(embeddings[chosen].to(states.device)), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _published_names(projection: Any) -> dict[str, Tensor]:
    return {name.replace("image_embeds.", "proj."): weight for name, weight in projection.state_dict().items()}


def _processors(unet: Any) -> list[Any]:
    return [processor for name, processor in unet.attn_processors.items() if name.endswith(_CROSS_ATTENTION)]


def adapter_state(unet: Any) -> State:
    """Returns the weights of a UNet's adapter in the published layout."""
    (projection,) = unet.encoder_hid_proj.image_projection_layers
    weights = {
        f"{2 * index + 1}.{name}.weight": getattr(processor, name)[0].weight
        for index, processor in enumerate(_processors(unet))
        for name in ("to_k_ip", "to_v_ip")
    }
    return {"image_proj": _published_names(projection), "ip_adapter": weights}


def _loss(sdxl: FrozenSdxl, dataset: LatentDataset, embeddings: Tensor, seed: int) -> Callable[[int], Tensor]:
    add_noise, device = NoiseSampler(sdxl.unet.device), sdxl.unet.device

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        chosen = rng.integers(len(dataset.scenes), size=_BATCH)
        texts = ["" if rng.random() < _CAPTION_DROPOUT else caption(dataset.scenes[index], rng) for index in chosen]
        conditioning = text_conditioning(sdxl.encoders, texts)
        visible = embeddings[chosen] * torch.from_numpy(rng.random((_BATCH, 1)) >= _IMAGE_DROPOUT)
        conditioning["added_cond_kwargs"]["image_embeds"] = [visible[:, None].to(device)]
        noisy, timesteps, velocity = add_noise(dataset.latents[chosen], rng)
        return nn.functional.mse_loss(sdxl.unet(noisy, timesteps, **conditioning)[0], velocity)

    return loss_at
