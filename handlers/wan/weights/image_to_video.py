"""WAN's models that begin with a picture, of which some end with one too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import WanImageToVideoPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from shared.models.load import load_network


class EndingWanPipeline(WanImageToVideoPipeline):  # type: ignore[misc]  # the library has no types
    """diffusers' pipeline, in which the last picture may stand before the end, and then stays until the end.

    A clip of a length that WAN does not have is made longer and cut, and is to end on its picture all the same. Where the picture is the
    last frame that is made, the result is diffusers' own, bit for bit.
    """

    last_picture_at: int | None = None
    """The frame from which on the last picture stands; None: it is the last frame alone."""

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
        """Noise, 1 × channels × latent frames × height/8 × width/8, and what the transformer gets beside it: mask and coded pictures."""
        each = self.vae_scale_factor_temporal
        shape = (1, num_channels_latents, (num_frames - 1) // each + 1, height // 8, width // 8)
        noise = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        video, known = image.new_zeros(1, 3, num_frames, height, width), torch.zeros(num_frames)
        video[:, :, 0], known[0] = image, 1.0
        if last_image is not None:
            start = num_frames - 1 if self.last_picture_at is None else self.last_picture_at
            video[:, :, start:], known[start:] = last_image[:, :, None], 1.0
        coded = self._coded(video).to(device, dtype)
        # The first latent stands for one frame and the others for four each: the mask has four channels, for each latent its frames.
        mask = torch.cat([known[:1].repeat(each), known[1:]]).view(-1, each).T[None, :, :, None, None]
        return noise, torch.cat([mask.expand(*mask.shape[:3], *coded.shape[-2:]).to(coded), coded], dim=1)

    def _coded(self, video: Tensor) -> Tensor:
        config, view = self.vae.config, (1, self.vae.config.z_dim, 1, 1, 1)
        mean, deviation = (torch.tensor(config[f"latents_{name}"]).view(view).to(video) for name in ("mean", "std"))
        coded: Tensor = self.vae.encode(video.to(self.vae.device, self.vae.dtype)).latent_dist.mode().to(video)
        return (coded - mean) * (1.0 / deviation)


def load_image_to_video(folder: Path, transformer: Any, device: torch.device, parts: dict[str, Any]) -> EndingWanPipeline:
    """Puts the pipeline together, with the network that looks at pictures where the transformer wants what it sees.

    Args:
        folder: The diffusers folder.
        transformer: A loaded `WanTransformer3DModel` that takes coded pictures beside the noise.
        device: Where the network goes; its precision is float32, as published.
        parts: What all pipelines share.

    Raises:
        SettingsError: The network is damaged or missing.
    """
    from transformers import CLIPImageProcessorPil, CLIPVisionModel

    seeing: dict[str, Any] = {}
    if transformer.config.image_dim is not None:
        encoder = folder / "image_encoder"
        seeing["image_encoder"] = load_network(CLIPVisionModel, encoder, name="wan/image_encoder", device=device, dtype=torch.float32)
        seeing["image_processor"] = CLIPImageProcessorPil.from_pretrained(folder / "image_processor", local_files_only=True)
    return EndingWanPipeline(transformer=transformer, **parts, **seeing)
