"""An IP-Adapter: a picture beside the prompt, or in its place."""

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
from small_models.training.addons.base_model import FrozenSdxl, train_added
from small_models.training.addons.image_encoder import PROJECTED, embed
from small_models.training.loop import Stage
from small_models.training.sdxl.captions import caption
from small_models.training.sdxl.unet import Examples, Noiser, conditions
from small_models.training.sdxl.vae import generate_dataset
from small_models.training.shapes import Scene, render

NAME = "small.safetensors"
_TOKENS = 4  # that a picture becomes
_BATCH = 24
_PICTURES = 8000
_PAIRS = 0.15  # the share of pictures with two figures
_EMPTY = 0.7  # the share of captions that become empty
_BLIND = 0.1  # the share of references that become nothing, for guidance
_IMITATIONS, _IMITATED, _IMITATION_RATE = 400, 256, 5e-3  # steps, pictures in each, and the first rate
_CROSS = "attn2.processor"  # of attention to the text; the other kind is of the picture to itself

State = dict[str, dict[str, Tensor]]
"""An IP-Adapter as published: `image_proj` and `ip_adapter`, each with its weights."""


def train_ip_adapter(sdxl: FrozenSdxl, encoder: Any, folder: Path, stage: Stage, seed: int) -> None:
    """Trains the adapter and writes it in half precision.

    References show the same scene as the pictures that are learned from, but are drawn anew: a pixel up or down, left or right.

    Args:
        sdxl: What it is trained on. Its UNet keeps the adapter.
        encoder: The image encoder, trained.
        folder: Where `NAME` goes.
        stage: The plan.
        seed: Draws pictures, weights and noise.
    """
    torch.manual_seed(seed)
    added = add_ip_adapter(sdxl.unet)
    scenes, pictures = generate_dataset(_PICTURES, seed, pairs=_PAIRS)
    rng = np.random.default_rng((seed, 1))
    references = embed(encoder, np.stack([render(scene, rng) for scene in scenes]))
    _imitate(sdxl.unet.encoder_hid_proj.image_projection_layers[0], references, _ends(sdxl, scenes, rng), rng)
    train_added(added, _loss(sdxl, sdxl.examples(scenes, pictures), references, seed), stage)
    flat = {f"{part}.{name}": weight for part, weights in state_of(sdxl.unet).items() for name, weight in weights.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.to(torch.float16).contiguous() for name, weight in flat.items()}, folder / NAME)
    make_world_readable(folder)


def add_ip_adapter(unet: Any) -> nn.Module:
    """Adds an adapter to a UNet: an untrained projection, and keys and values that start as those of the text.

    Returns:
        What is new in the UNet, to be trained.
    """
    unet._load_ip_adapter_weights([_first_state(unet)], low_cpu_mem_usage=False)
    return nn.ModuleList([unet.encoder_hid_proj, *_processors(unet)]).requires_grad_(True)


def _first_state(unet: Any) -> State:
    projection = ImageProjection(PROJECTED, unet.config.cross_attention_dim, _TOKENS)
    layers = [unet.get_submodule(name.removesuffix(".processor")) for name in unet.attn_processors if name.endswith(_CROSS)]
    weights = {
        f"{2 * index + 1}.to_{part}_ip.weight": getattr(layer, f"to_{part}").weight.clone()
        for index, layer in enumerate(layers)
        for part in "kv"
    }
    return {"image_proj": _published(projection), "ip_adapter": weights}


@torch.no_grad()
def _ends(sdxl: FrozenSdxl, scenes: list[Scene], rng: np.random.Generator) -> Tensor:
    """The states of the ends of captions, where all is gathered that they say."""
    texts = [caption(scene, rng) for scene in scenes]
    return torch.cat([sdxl.encoders(texts[start : start + 250])[2] for start in range(0, len(texts), 250)])


def _imitate(projection: Any, references: Tensor, ends: Tensor, rng: np.random.Generator) -> None:
    """Brings tokens of pictures near to what the UNet reads in captions: states of text are ten times as large as those of a fresh norm."""
    projection.norm.weight.data.copy_(ends.std(0))
    projection.norm.bias.data.copy_(ends.mean(0))
    optimizer = torch.optim.AdamW(projection.parameters(), lr=_IMITATION_RATE)
    for step in range(_IMITATIONS):
        optimizer.param_groups[0]["lr"] = _IMITATION_RATE * (1 - step / _IMITATIONS)
        chosen = torch.from_numpy(rng.integers(len(ends), size=_IMITATED))
        optimizer.zero_grad()
        wanted = ends[chosen, None].expand(-1, _TOKENS, -1)
        loss = nn.functional.mse_loss(projection(references[chosen].to(ends.device)), wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _published(projection: Any) -> dict[str, Tensor]:
    return {name.replace("image_embeds.", "proj."): weight for name, weight in projection.state_dict().items()}


def _processors(unet: Any) -> list[Any]:
    return [processor for name, processor in unet.attn_processors.items() if name.endswith(_CROSS)]


def state_of(unet: Any) -> State:
    """The weights of a UNet's adapter."""
    (projection,) = unet.encoder_hid_proj.image_projection_layers
    weights = {
        f"{2 * index + 1}.{name}.weight": getattr(processor, name)[0].weight
        for index, processor in enumerate(_processors(unet))
        for name in ("to_k_ip", "to_v_ip")
    }
    return {"image_proj": _published(projection), "ip_adapter": weights}


def _loss(sdxl: FrozenSdxl, examples: Examples, references: Tensor, seed: int) -> Callable[[int], Tensor]:
    noiser, device = Noiser(sdxl.unet.device), sdxl.unet.device

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        chosen = rng.integers(len(examples.scenes), size=_BATCH)
        texts = ["" if rng.random() < _EMPTY else caption(examples.scenes[index], rng) for index in chosen]
        given = conditions(sdxl.encoders, texts)
        seen = references[chosen] * torch.from_numpy(rng.random((_BATCH, 1)) >= _BLIND)
        given["added_cond_kwargs"]["image_embeds"] = [seen[:, None].to(device)]
        noisy, times, velocity = noiser(examples.latents[chosen], rng)
        return nn.functional.mse_loss(sdxl.unet(noisy, times, **given)[0], velocity)

    return loss_at
