"""How many pictures are denoised together: what each takes, against the memory that there is.

What a network works with beside its weights grows with the pixels of the latents, width/8 × height/8, and with the batch, and with nothing
else: attention is fused and keeps no matrix of all pairs. `python -m builder.weights.sdxl_memory` computes it from the published forms of the
networks, and a test compares. Per latent pixel in half precision:

    10 108 bytes  the UNet, for one sample; guidance needs two samples a picture
    12 117 bytes  the refiner's UNet, likewise
     6 560 bytes  what ControlNets hand to the UNet, for one sample: 3 280 values of its levels, twice while several are added up
    98 312 bytes  the VAE's decoder, for one picture; twice that in float32, in which most run

A picture of 1024 × 1024 has 128 × 128 latent pixels. With guidance it so takes 331 MB while it is denoised, and its decoding 1.6 GB, or 3.2
GB in float32. Pictures are decoded one by one, when denoising has let its memory go: the larger of both counts, not their sum.

To that comes what the libraries of a GPU take to work with, and what lies idle between blocks of memory. `SPARE` is for that. It is
an allowance, not a measurement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shared.errors import OutOfMemory

UNET, REFINER, CONTROLS, DECODER = 10_108, 12_117, 6_560, 98_312
"""Bytes per latent pixel, in half precision."""

SPARE = 1.25
"""How many times what is computed has to be there."""

TILE = 1024
"""Pixels of the side of what SDXL's VAE decodes at a time, where it works in tiles: its configuration's `sample_size`."""

_STEP = 64


@dataclass(frozen=True, slots=True)
class Need:
    """What a job's pictures take beside the weights.

    Attributes:
        width: Of a picture, in pixels.
        height: In pixels.
        guided: Whether each picture needs two samples: guidance above 1.
        controlled: Whether ControlNets guide it.
        refined: Whether the refiner finishes it.
        unet_bytes: Of one number in the UNet: 2 in half precision.
        vae_bytes: Of one number in the VAE: mostly 4.
        encoders: Of the weights of the text encoders, which can be moved aside.
        unet: Of the UNet's, likewise while pictures are decoded.
    """

    width: int
    height: int
    guided: bool = True
    controlled: bool = False
    refined: bool = False
    unet_bytes: int = 2
    vae_bytes: int = 4
    encoders: int = 0
    unet: int = 0

    @property
    def denoising(self) -> int:
        """Bytes for each picture of a batch."""
        samples = 2 if self.guided else 1
        unet = UNET + (CONTROLS if self.controlled else 0)
        return self._bytes(samples * max(unet, REFINER if self.refined else 0), self.unet_bytes)

    @property
    def decoding(self) -> int:
        """Bytes for one picture, whatever the batch."""
        return self._bytes(DECODER, self.vae_bytes)

    @property
    def alone(self) -> int:
        """Bytes with which a single picture is made without any remedy."""
        return max(self.denoising, self.decoding)

    def most_at_once(self, count: int, free: int | None) -> int:
        """How many pictures can be denoised together.

        Args:
            count: How many are wanted.
            free: Bytes that there are. None: nobody knows, and all are tried.

        Returns:
            1 … count.

        Raises:
            OutOfMemory: There is too little for a single one, with every remedy: the text encoders moved aside while it is denoised, the
                UNet too while it is decoded, in tiles. The message says what would fit.
        """
        if free is None:
            return count
        decoding, room = min(self.decoding, self._tile), free + self.encoders
        if self.denoising > room or decoding > room + self.unet:
            raise OutOfMemory(self._too_large(room))
        return min(count, max(1, free // self.denoising))

    @property
    def _tile(self) -> int:
        return Need(TILE, TILE, vae_bytes=self.vae_bytes).decoding

    def _too_large(self, room: int) -> str:
        share = max(0, min(room / self.denoising, (room + self.unet) / self.decoding if self.denoising <= room else 1))
        side = int((share * self.width * self.height) ** 0.5) // _STEP * _STEP
        fits = f"Ask for {side}x{side} or a size of as many pixels" if side >= _STEP else "Ask the operator for a larger GPU"
        needed, there = (self.denoising, room) if self.denoising > room else (min(self.decoding, self._tile), room + self.unet)
        size = f"{self.width} × {self.height}"
        return f"One picture of {size} needs {needed / 1e9:.1f} GB beside the model, and {max(0, there) / 1e9:.1f} GB can be had. {fits}."

    def _bytes(self, per_latent_pixel: int, itemsize: int) -> int:
        return int(per_latent_pixel * (self.width // 8) * (self.height // 8) * itemsize // 2 * SPARE)


def micro_batches(count: int, most: int) -> Iterator[slice]:
    """Divides pictures into batches as equal as can be.

    Args:
        count: How many there are.
        most: How many a batch may have at most.
    """
    parts = -(-count // most)
    start = 0
    for part in range(parts):
        end = start + (count - start + parts - part - 1) // (parts - part)
        yield slice(start, end)
        start = end


def halves(which: slice) -> tuple[slice, slice]:
    """Divides a batch of two or more in two."""
    middle = (which.start + which.stop) // 2
    return slice(which.start, middle), slice(middle, which.stop)
