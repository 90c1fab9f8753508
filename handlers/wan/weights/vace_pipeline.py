"""diffusers' VACE pipeline, fixed for more reference images than the clip has latent frames."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import WanVACEPipeline
from torch import Tensor


class MultiReferenceVacePipeline(WanVACEPipeline):  # type: ignore[misc]  # the library has no types
    """Differs only where diffusers fails: it truncates the mask of the references to the length of the clip, which is 1 for an image."""

    def prepare_masks(self, mask: Tensor, reference_images: list[list[Tensor]], generator: Any = None) -> Tensor:
        """1 × 64 × latent frames × height/8 × width/8: zero for the references in front, which are not generated anew."""
        clip: Tensor = super().prepare_masks(mask, [[] for _ in reference_images], generator)
        references = clip.new_zeros(*clip.shape[:2], len(reference_images[0]), *clip.shape[3:])
        return torch.cat([references, clip], dim=2)
