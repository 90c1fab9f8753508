"""Latents become pictures, with what is done when a picture comes out unusable or memory does not suffice. Nothing is denoised again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from shared.errors import GenerationError
from shared.media.images import Pixels
from shared.models.oom import FREED, Rung, climb, in_full_precision, in_tiles, on_the_cpu
from shared.models.pixels import NOT_FINITE, ONE_COLOUR, check_latents, is_one_colour, to_pixels


def decode(pipeline: Any, latent: Tensor, warn: Callable[[str], None]) -> Pixels:
    """Decodes one picture. A VAE in half precision that made it unusable does it once more in full.

    Args:
        pipeline: Of the job.
        latent: 1 × 4 × height/8 × width/8.
        warn: Is told what had to be done.

    Returns:
        Height × width × 3.

    Raises:
        GenerationError: The latents or what came of them are not finite, or the picture is a single colour.
        OutOfMemory: Memory did not suffice with every remedy.
    """
    check_latents(latent)
    vae = pipeline.vae
    rungs = (
        FREED,
        Rung("the picture was decoded in tiles", lambda: in_tiles(vae)),
        Rung("the other networks were moved out of the GPU's memory meanwhile", lambda: on_the_cpu(_others(pipeline))),
    )
    pixels, wrong = climb(lambda: _try(vae, latent), rungs, warn)
    if wrong is not None and vae.dtype != torch.float32:
        warn("The VAE failed in half precision; the picture was decoded in full precision.")
        with in_full_precision(vae):
            pixels, wrong = climb(lambda: _try(vae, latent), rungs, warn)
    if pixels is None or wrong is not None:
        raise GenerationError(wrong or NOT_FINITE)
    return pixels


def _try(vae: Any, latent: Tensor) -> tuple[Pixels | None, str | None]:
    """A picture, and what is wrong with it."""
    decoded = vae.decode(latent.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0] / 2 + 0.5
    if not bool(decoded.isfinite().all()):
        return None, NOT_FINITE
    pixels: Pixels = to_pixels(decoded)[0]
    return pixels, ONE_COLOUR if is_one_colour(pixels) else None


def _others(pipeline: Any) -> list[Any]:
    return [pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2]
