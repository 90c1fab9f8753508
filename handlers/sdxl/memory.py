"""Memory estimates that decide how many images are denoised in one batch.

The memory for a network's activations grows with the latent pixels, width/8 × height/8, and with the batch size, and with nothing else:
fused attention never materialises the attention matrix. `python -m benchmarks.sdxl_memory` computes the constants from the published
architectures, and a test compares. Per latent pixel, in half precision:

    10 108 bytes  the UNet, per sample; guidance needs two samples per image
    12 117 bytes  the refiner's UNet, likewise
     6 560 bytes  ControlNet residuals, per sample: 3 280 values over the UNet's levels, twice while several ControlNets are summed
    98 312 bytes  the VAE decoder, per image
    81 920 bytes  the VAE encoder, for a reference

An image of 1024 × 1024 has 128 × 128 latent pixels: with guidance 331 MB while denoising, and 1.6 GB for decoding.
In float32 each needs twice that: decoding falls back to it if an image is not finite in half precision.
Images are decoded one at a time, after denoising has released its memory, so the larger of the two counts, not their sum.
The encoder is always in float32, 2.7 GB for 1024 × 1024. Inpainting encodes its reference, and the image outside the mask, one after the
other before the first step. Img2img has encoded its reference already when the estimate is made, in tiles if memory was short.

`python -m benchmarks.feature_report` counts complete jobs with each feature at full size, which a test compares with these figures.

`HEADROOM` covers library workspaces and fragmentation. It is an allowance, not a measurement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from handlers.sdxl.request import SdxlRequest
from shared.errors import OutOfMemory
from shared.models.device import memory_footprint

UNET, REFINER, CONTROLS, DECODER, ENCODER = 10_108, 12_117, 6_560, 98_312, 81_920
"""Bytes per latent pixel, in half precision."""

HEADROOM = 1.25
"""The factor between the computed memory and the memory that must be free."""

TILE = 512
"""The largest side, in pixels, of the tiles in which the VAE works when memory is short: a quarter of the memory of 1024 × 1024."""

_SIDE_STEP = 64


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """The memory that a job's images need in addition to the weights.

    Attributes:
        width: Of an image, in pixels.
        height: In pixels.
        guided: Whether classifier-free guidance doubles the samples: a scale above 1.
        controlled: Whether ControlNets are used.
        refined: Whether the refiner is used.
        encodes: Whether a reference is still to be encoded.
        unet_itemsize: Bytes per value in the UNet: 2 in half precision.
        vae_itemsize: Bytes per value in the VAE's decoder: 2 in half precision.
        encoder_itemsize: Likewise in its encoder.
        text_encoder_weights: Bytes of the text encoders' weights, which can be offloaded.
        unet_weights: Bytes of the UNet's weights, which can be offloaded while decoding.
    """

    width: int
    height: int
    guided: bool = True
    controlled: bool = False
    refined: bool = False
    encodes: bool = False
    unet_itemsize: int = 2
    vae_itemsize: int = 2
    encoder_itemsize: int = 4
    text_encoder_weights: int = 0
    unet_weights: int = 0

    @classmethod
    def of(cls, request: SdxlRequest, pipeline: Any) -> Self:
        """Estimates the memory for a request on any SDXL pipeline."""
        return cls(
            request.width,
            request.height,
            guided=request.guidance_scale > 1,
            controlled=bool(request.controls),
            refined=request.refiner is not None,
            encodes=request.reference_method == "inpaint",
            unet_itemsize=pipeline.unet.dtype.itemsize,
            vae_itemsize=pipeline.vae.decoder.conv_in.weight.dtype.itemsize,
            encoder_itemsize=pipeline.vae.encoder.conv_in.weight.dtype.itemsize,
            text_encoder_weights=memory_footprint(pipeline.text_encoder, pipeline.text_encoder_2),
            unet_weights=memory_footprint(pipeline.unet),
        )

    @property
    def denoising(self) -> int:
        """Bytes per image of a batch."""
        samples = 2 if self.guided else 1
        unet = UNET + (CONTROLS if self.controlled else 0)
        return self._bytes(samples * max(unet, REFINER if self.refined else 0), self.unet_itemsize)

    @property
    def decoding(self) -> int:
        """Bytes for one image, at any batch size."""
        return self._bytes(DECODER, self.vae_itemsize)

    @property
    def encoding(self) -> int:
        """Bytes for encoding a reference; 0 if none is still to be encoded."""
        return self._bytes(ENCODER, self.encoder_itemsize) if self.encodes else 0

    @property
    def single_image(self) -> int:
        """Bytes that suffice for one image without offloading or tiling."""
        return max(self.encoding, self.denoising, self.decoding)

    def batch_size(self, count: int, free: int | None) -> int:
        """Returns how many images can be denoised together.

        Args:
            count: The images of the job.
            free: Free bytes; None if unknown, in which case all images form one batch.

        Returns:
            1 … count.

        Raises:
            OutOfMemory: One image does not fit even with every fallback: the text encoders offloaded while denoising, the UNet too while
                decoding, and tiled decoding. The message proposes a size that fits.
        """
        if free is None:
            return count
        decoding, available = min(self.decoding, self._tile_decoding), free + self.text_encoder_weights
        if self.denoising > available or decoding > available + self.unet_weights:
            raise OutOfMemory(self._too_large(available))
        return min(count, max(1, free // self.denoising))

    @property
    def _tile_decoding(self) -> int:
        return MemoryEstimate(TILE, TILE, vae_itemsize=self.vae_itemsize).decoding

    def _too_large(self, available: int) -> str:
        to_decode = available + self.unet_weights
        share = max(0, min(available / self.denoising, to_decode / self.decoding if self.denoising <= available else 1))
        side = int((share * self.width * self.height) ** 0.5) // _SIDE_STEP * _SIDE_STEP
        advice = f"Request {side}x{side} or a size with as many pixels" if side >= _SIDE_STEP else "Ask the operator for a larger GPU"
        denoises = self.denoising <= available
        needed, found = (min(self.decoding, self._tile_decoding), to_decode) if denoises else (self.denoising, available)
        return (
            f"An image of {self.width} × {self.height} needs {needed / 1e9:.1f} GB in addition to the model; "
            f"{max(0, found) / 1e9:.1f} GB is available. {advice}."
        )

    def _bytes(self, per_latent_pixel: int, itemsize: int) -> int:
        return int(per_latent_pixel * (self.width // 8) * (self.height // 8) * itemsize // 2 * HEADROOM)


def micro_batches(count: int, batch_size: int) -> Iterator[slice]:
    """Divides images into the fewest batches, as equal as possible.

    Args:
        count: The number of images.
        batch_size: The most images in one batch.
    """
    batches = -(-count // batch_size)
    start = 0
    for index in range(batches):
        end = start + (count - start + batches - index - 1) // (batches - index)
        yield slice(start, end)
        start = end


def split_batch(images: slice) -> tuple[slice, slice]:
    """Splits a batch of two or more images in half."""
    middle = (images.start + images.stop) // 2
    return slice(images.start, middle), slice(middle, images.stop)
