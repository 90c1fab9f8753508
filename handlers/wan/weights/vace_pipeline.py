"""diffusers' pipeline for VACE, with room for more references than the clip has latent frames."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import WanVACEPipeline
from torch import Tensor


class RoomyVacePipeline(WanVACEPipeline):  # type: ignore[misc]  # the library has no types
    """Differs only where diffusers fails: it cuts the mask of the references to the length of the clip, which a picture has of one."""

    def prepare_masks(self, mask: Tensor, reference_images: list[list[Tensor]], generator: Any = None) -> Tensor:
        """1 × 64 × latent frames × height/8 × width/8: nothing of the references in front is made anew."""
        clip: Tensor = super().prepare_masks(mask, [[] for _ in reference_images], generator)
        front = clip.new_zeros(*clip.shape[:2], len(reference_images[0]), *clip.shape[3:])
        return torch.cat([front, clip], dim=2)
