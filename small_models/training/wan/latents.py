"""What the transformer learns from: latents of clips, and VACE's view of clips of which some frames are given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from tqdm import trange  # type: ignore[import-untyped]  # its types are a package of their own

from small_models.training.shapes import SIZE, Pixels
from small_models.training.wan.dataset import Scene, draw, render, sample_scene
from small_models.training.wan.vae import encode, scale, to_tensor

GREY = 128
"""The level of frames that are not given."""
_CHUNK = 50
_GIVEN = ((0,), (-1,), (0, -1))  # frames: the first, the last, both


@dataclass(frozen=True)
class Examples:
    """Clips of one length.

    Attributes:
        frames: How many each has.
        scenes: What each shows.
        latents: Count × 16 × latent frames × 8 × 8, scaled.
        given: VACE's view of each with its first frame, its last or both given: count × 96 × latent frames × 8 × 8.
        pictures: The latents of a picture of each one's figure: count × 16 × 1 × 8 × 8, scaled.
        nothing: VACE's view when no frame is given: 96 × latent frames × 8 × 8.
    """

    frames: int
    scenes: list[Scene]
    latents: Tensor
    given: Tensor
    pictures: Tensor
    nothing: Tensor

    def with_pictures(self, chosen: list[int]) -> tuple[Tensor, Tensor]:
        """Targets and VACE's views when a picture is the reference: one latent frame more, in front."""
        pictures = self.pictures[chosen]
        views = torch.cat([pictures, pictures.new_zeros(len(chosen), self.nothing.shape[0] - pictures.shape[1], *pictures.shape[2:])], 1)
        nothing = self.nothing.expand(len(chosen), *self.nothing.shape)
        return torch.cat([pictures, self.latents[chosen]], 2), torch.cat([views, nothing], 2)


def make_examples(vae: AutoencoderKLWan, count: int, frames: int, seed: int) -> Examples:
    """Draws clips and encodes them.

    Args:
        vae: The trained VAE.
        count: How many.
        frames: Their length, 4n + 1.
        seed: Draws them.
    """
    rng = np.random.default_rng((seed, frames))
    scenes = [sample_scene(rng) for _ in range(count)]
    parts = [
        _encoded(vae, scenes[start : start + _CHUNK], frames, rng)
        for start in trange(0, count, _CHUNK, desc=f"clips of {frames}", mininterval=5)
    ]
    latents, given, pictures = (torch.cat(part) for part in zip(*parts, strict=True))
    return Examples(frames, scenes, latents, given, pictures, view_of_nothing(vae, frames))


def _encoded(vae: AutoencoderKLWan, scenes: list[Scene], frames: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Latents of clips, VACE's view of them with some frames given, and latents of pictures."""
    clips = np.stack([render(scene, frames, rng) for scene in scenes])
    pictures = np.stack([draw(scene, *rng.uniform(20, SIZE - 20, 2))[None] for scene in scenes])
    kept = np.zeros((len(clips), frames), bool)
    for row in kept:
        row[list(_GIVEN[rng.integers(len(_GIVEN))])] = True
    return _scaled(vae, to_tensor(clips)), view(vae, clips, kept), _scaled(vae, to_tensor(pictures))


def load_examples(vae: AutoencoderKLWan, counts: Mapping[int, int], path: Path, seed: int) -> list[Examples]:
    """Makes clips of each length, or reads those that were made before.

    Args:
        vae: The trained VAE.
        counts: How many of each length.
        path: The file that keeps them.
        seed: Draws them.
    """
    if not path.is_file():
        made = [vars(make_examples(vae, count, frames, seed)) for frames, count in counts.items()]
        stored = [examples | {"scenes": [astuple(scene) for scene in examples["scenes"]]} for examples in made]
        torch.save(stored, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)
    stored = torch.load(path, weights_only=True)
    return [Examples(**examples | {"scenes": [Scene(*words) for words in examples["scenes"]]}) for examples in stored]


def view(vae: AutoencoderKLWan, clips: Pixels, kept: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> Tensor:
    """What VACE's blocks see of clips, as diffusers' pipeline makes it.

    Args:
        vae: The trained VAE.
        clips: Count × frames × height × width × 3.
        kept: Which frames are given, count × frames; the others are grey.

    Returns:
        Count × 96 × latent frames × 8 × 8: scaled latents of what is kept, scaled latents of what is not, and the mask.
    """
    keep = torch.from_numpy(kept)[:, None, :, None, None]
    inactive = to_tensor(clips) * keep
    reactive = (~keep).float() * (GREY / 127.5 - 1)
    # What is not kept is grey everywhere: the same for all clips of which the same frames are kept.
    distinct, which = torch.unique(reactive[:, 0, :, 0, 0], dim=0, return_inverse=True)
    grey = distinct[:, None, :, None, None].expand(-1, 3, -1, SIZE, SIZE)
    latents = [_scaled(vae, inactive), _scaled(vae, grey)[which]]
    return torch.cat([*latents, _folded(~torch.from_numpy(kept), latents[0])], 1)


def view_of_nothing(vae: AutoencoderKLWan, frames: int) -> Tensor:
    """What VACE's blocks see when no frame is given: 96 × latent frames × 8 × 8. Diffusers then has numbers of 0, between two levels."""
    latents = _scaled(vae, torch.zeros(1, 3, frames, SIZE, SIZE))
    return torch.cat([latents, latents, torch.ones_like(latents).repeat(1, 4, 1, 1, 1)], 1)[0]


def _folded(open_: Tensor, like: Tensor) -> Tensor:
    """The mask of whole frames in the latents' shape, 64 channels for the pixels of a cell."""
    count, _, frames, height, width = like.shape
    folded = nn.functional.interpolate(open_[:, None].float(), size=frames, mode="nearest-exact")
    return folded[..., None, None].expand(count, 64, frames, height, width)


def _scaled(vae: AutoencoderKLWan, clips: Tensor) -> Tensor:
    return scale(vae, encode(vae, clips))
