"""Precomputed training data of the transformer: latents of clips, and VACE inputs with some frames or an image given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from tqdm import trange  # type: ignore[import-untyped]  # its types are a separate package

from small_models.training.shapes import SIZE, Pixels
from small_models.training.wan.dataset import Scene, render, render_frame, sample_scene
from small_models.training.wan.vae import encode, normalize_latents, to_tensor

GREY = 128
"""The pixel value of frames that are to be generated."""
_CHUNK = 50
_GIVEN_FRAMES = ((0,), (-1,), (0, -1))  # the first, the last, both


@dataclass(frozen=True)
class LatentClips:
    """Encoded clips of one length.

    Attributes:
        frames: The number of frames of each clip.
        scenes: The scene of each.
        latents: Count × 16 × latent frames × 8 × 8, normalized.
        frame_inputs: The VACE input of each clip with its first frame, its last or both given: count × 96 × latent frames × 8 × 8.
        images: The latents of an image of each clip's figure: count × 16 × 1 × 8 × 8, normalized.
        empty_input: The VACE input without given frames: 96 × latent frames × 8 × 8.
    """

    frames: int
    scenes: list[Scene]
    latents: Tensor
    frame_inputs: Tensor
    images: Tensor
    empty_input: Tensor

    def with_reference_images(self, chosen: list[int]) -> tuple[Tensor, Tensor]:
        """Returns targets and VACE inputs with an image as the reference, which is prepended as an additional latent frame."""
        images = self.images[chosen]
        padding = images.new_zeros(len(chosen), self.empty_input.shape[0] - images.shape[1], *images.shape[2:])
        empty = self.empty_input.expand(len(chosen), *self.empty_input.shape)
        return torch.cat([images, self.latents[chosen]], 2), torch.cat([torch.cat([images, padding], 1), empty], 2)


def make_latent_clips(vae: AutoencoderKLWan, count: int, frames: int, seed: int) -> LatentClips:
    """Renders and encodes clips.

    Args:
        vae: The trained VAE.
        count: The number of clips.
        frames: Their length, 4n + 1.
        seed: Seeds the scenes.
    """
    rng = np.random.default_rng((seed, frames))
    scenes = [sample_scene(rng) for _ in range(count)]
    parts = [
        _encode_scenes(vae, scenes[start : start + _CHUNK], frames, rng)
        for start in trange(0, count, _CHUNK, desc=f"clips of {frames}", mininterval=5)
    ]
    latents, frame_inputs, images = (torch.cat(part) for part in zip(*parts, strict=True))
    return LatentClips(frames, scenes, latents, frame_inputs, images, empty_vace_input(vae, frames))


def _encode_scenes(vae: AutoencoderKLWan, scenes: list[Scene], frames: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the latents of clips, their VACE inputs with some frames given, and the latents of images of their figures."""
    clips = np.stack([render(scene, frames, rng) for scene in scenes])
    images = np.stack([render_frame(scene, *rng.uniform(20, SIZE - 20, 2))[None] for scene in scenes])
    given = np.zeros((len(clips), frames), bool)
    for row in given:
        row[list(_GIVEN_FRAMES[rng.integers(len(_GIVEN_FRAMES))])] = True
    return _encode_normalized(vae, to_tensor(clips)), vace_input(vae, clips, given), _encode_normalized(vae, to_tensor(images))


def load_latent_clips(vae: AutoencoderKLWan, counts: Mapping[int, int], path: Path, seed: int) -> list[LatentClips]:
    """Loads the clips of each length from a cache file, or encodes and caches them.

    Args:
        vae: The trained VAE.
        counts: The number of clips of each length.
        path: The cache file.
        seed: Seeds the scenes.
    """
    if not path.is_file():
        encoded = [vars(make_latent_clips(vae, count, frames, seed)) for frames, count in counts.items()]
        stored = [clips | {"scenes": [astuple(scene) for scene in clips["scenes"]]} for clips in encoded]
        torch.save(stored, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)
    stored = torch.load(path, weights_only=True)
    return [LatentClips(**clips | {"scenes": [Scene(*attributes) for attributes in clips["scenes"]]}) for clips in stored]


def vace_input(vae: AutoencoderKLWan, clips: Pixels, given: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> Tensor:
    """Returns the VACE input of clips, equal to that of diffusers' pipeline.

    Args:
        vae: The trained VAE.
        clips: Count × frames × height × width × 3.
        given: Which frames are given, count × frames; the others are grey.

    Returns:
        Count × 96 × latent frames × 8 × 8: normalized latents of the given frames, normalized latents of the others, and the mask.
    """
    keep = torch.from_numpy(given)[:, None, :, None, None]
    inactive = to_tensor(clips) * keep
    reactive = (~keep).float() * (GREY / 127.5 - 1)
    # The reactive part is uniformly grey, so it only has to be encoded once for each distinct set of given frames.
    distinct, which = torch.unique(reactive[:, 0, :, 0, 0], dim=0, return_inverse=True)
    grey = distinct[:, None, :, None, None].expand(-1, 3, -1, SIZE, SIZE)
    latents = [_encode_normalized(vae, inactive), _encode_normalized(vae, grey)[which]]
    return torch.cat([*latents, _fold_mask(~torch.from_numpy(given), latents[0])], 1)


def empty_vace_input(vae: AutoencoderKLWan, frames: int) -> Tensor:
    """Returns the VACE input without given frames, 96 × latent frames × 8 × 8. Diffusers uses 0 here, which is between two pixel values."""
    latents = _encode_normalized(vae, torch.zeros(1, 3, frames, SIZE, SIZE))
    return torch.cat([latents, latents, torch.ones_like(latents).repeat(1, 4, 1, 1, 1)], 1)[0]


def _fold_mask(generated: Tensor, like: Tensor) -> Tensor:
    """Returns the mask of whole frames in the shape of the latents, with 64 channels for the pixels of each latent pixel."""
    count, _, frames, height, width = like.shape
    folded = nn.functional.interpolate(generated[:, None].float(), size=frames, mode="nearest-exact")
    return folded[..., None, None].expand(count, 64, frames, height, width)


def _encode_normalized(vae: AutoencoderKLWan, clips: Tensor) -> Tensor:
    return normalize_latents(vae, encode(vae, clips))
