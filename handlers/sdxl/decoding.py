"""VAE decoding of one image, with fallbacks for lack of memory and for half-precision overflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from handlers.sdxl.tiling import in_small_tiles
from handlers.sdxl.weights.vae_precision import upcast_decoder
from shared.errors import GenerationError
from shared.media.images import Pixels
from shared.models.oom import EMPTY_CACHE, Fallback, offloaded, run_with_fallbacks
from shared.models.pixels import NOT_FINITE, SINGLE_COLOUR, decoded_to_pixels, is_single_colour


def decoder_dtype(vae: Any) -> torch.dtype:
    """Returns the precision that a VAE decodes in; its encoder may have another."""
    dtype: torch.dtype = vae.decoder.conv_in.weight.dtype
    return dtype


def decode(pipeline: Any, latent: Tensor, warn: Callable[[str], None]) -> Pixels:
    """Decodes one image. If a half-precision VAE yields an unusable result, it is upcast and decodes again.

    Args:
        pipeline: The job's pipeline.
        latent: 1 × 4 × height/8 × width/8, finite.
        warn: Receives a warning for each fallback used.

    Returns:
        Height × width × 3.

    Raises:
        GenerationError: The decoded values are not finite, or the image is a single colour.
        OutOfMemory: Memory was insufficient with every fallback.
    """
    vae = pipeline.vae
    fallbacks = (
        EMPTY_CACHE,
        Fallback("the image was decoded in tiles", lambda: in_small_tiles(vae)),
        Fallback("the other networks were offloaded while the image was decoded", lambda: offloaded(_other_networks(pipeline))),
    )
    pixels, defect = run_with_fallbacks(lambda: _decode_once(vae, latent), fallbacks, warn)
    if defect is not None and decoder_dtype(vae) != torch.float32:
        warn("The VAE failed in half precision; the image was decoded in float32.")
        with upcast_decoder(vae):
            pixels, defect = run_with_fallbacks(lambda: _decode_once(vae, latent), fallbacks, warn)
    if pixels is None or defect is not None:
        raise GenerationError(defect or NOT_FINITE)
    return pixels


def _decode_once(vae: Any, latent: Tensor) -> tuple[Pixels | None, str | None]:
    """Returns the image and a description of its defect, if any."""
    decoded = vae.decode(latent.to(decoder_dtype(vae)) / vae.config.scaling_factor, return_dict=False)[0]
    try:
        pixels: Pixels = decoded_to_pixels(decoded)[0]
    except GenerationError:
        return None, NOT_FINITE
    return pixels, SINGLE_COLOUR if is_single_colour(pixels) else None


def _other_networks(pipeline: Any) -> list[Any]:
    return [pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2]
