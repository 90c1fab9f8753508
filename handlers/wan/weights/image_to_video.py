"""WAN's image-to-video models, which start from an image; some also end with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import WanImageToVideoPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from shared.models.load import load_network


class HoldLastFramePipeline(WanImageToVideoPipeline):  # type: ignore[misc]  # the library has no types
    """diffusers' pipeline, in which the last image may start before the end, and then holds until the end.

    A clip of a length that WAN does not support is generated longer and cut, and must end with the image nevertheless. Where the image is
    the last generated frame, the result equals diffusers', bit for bit.
    """

    last_image_from: int | None = None
    """The frame from which on the last image is shown; None: the last frame only."""

    def prepare_latents(  # noqa: PLR0913 - the arguments are the library's
        self,
        image: Tensor,
        batch_size: int,
        num_channels_latents: int,
        height: int,
        width: int,
        num_frames: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator,
        latents: Tensor | None = None,
        last_image: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Noise, 1 × channels × latent frames × height/8 × width/8, and the transformer's condition: mask and encoded images."""
        ratio = self.vae_scale_factor_temporal
        shape = (1, num_channels_latents, (num_frames - 1) // ratio + 1, height // 8, width // 8)
        noise = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        video, known = image.new_zeros(1, 3, num_frames, height, width), torch.zeros(num_frames)
        video[:, :, 0], known[0] = image, 1.0
        if last_image is not None:
            start = num_frames - 1 if self.last_image_from is None else self.last_image_from
            video[:, :, start:], known[start:] = last_image[:, :, None], 1.0
        encoded = self._encode(video).to(device, dtype)
        # The first latent frame stands for one frame, each other one for four: the mask has four channels, one per frame.
        mask = torch.cat([known[:1].repeat(ratio), known[1:]]).view(-1, ratio).T[None, :, :, None, None]
        return noise, torch.cat([mask.expand(*mask.shape[:3], *encoded.shape[-2:]).to(encoded), encoded], dim=1)

    def _encode(self, video: Tensor) -> Tensor:
        config, view = self.vae.config, (1, self.vae.config.z_dim, 1, 1, 1)
        mean, deviation = (torch.tensor(config[f"latents_{name}"]).view(view).to(video) for name in ("mean", "std"))
        encoded: Tensor = self.vae.encode(video.to(self.vae.device, self.vae.dtype)).latent_dist.mode().to(video)
        return (encoded - mean) * (1.0 / deviation)


def load_image_to_video(folder: Path, transformer: Any, device: torch.device, components: dict[str, Any]) -> HoldLastFramePipeline:
    """Assembles the pipeline, with an image encoder if the transformer requires one.

    Args:
        folder: The diffusers folder.
        transformer: A loaded `WanTransformer3DModel` that takes encoded images in addition to the noise.
        device: Where the image encoder goes; its precision is float32, as published.
        components: Those that all pipelines share.

    Raises:
        WeightsError: The image encoder is damaged or missing.
    """
    from transformers import CLIPImageProcessorPil, CLIPVisionModel

    vision: dict[str, Any] = {}
    if transformer.config.image_dim is not None:
        encoder = folder / "image_encoder"
        vision["image_encoder"] = load_network(CLIPVisionModel, encoder, name="wan/image_encoder", device=device, dtype=torch.float32)
        vision["image_processor"] = CLIPImageProcessorPil.from_pretrained(folder / "image_processor", local_files_only=True)
    return HoldLastFramePipeline(transformer=transformer, **components, **vision)
