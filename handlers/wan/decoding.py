"""Latents become frames, four at a time, so that a clip is never in memory as numbers of 32 bits."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from shared.errors import GenerationError
from shared.media.images import Pixels
from shared.models.oom import FREED, Ladder, Rung, in_tiles
from shared.models.pixels import ONE_COLOUR, check_latents, is_one_colour, to_pixels


def decode_frames(vae: Any, latents: Tensor) -> Generator[Pixels]:
    """Decodes a clip as its VAE does, and hands over each frame as soon as it is there.

    The VAE is causal: it makes the first frame alone and then four for each latent frame, and keeps what later ones need of earlier ones.
    `vae.decode` does the same and puts all frames together first; each frame here equals its own, bit for bit.

    Args:
        vae: An `AutoencoderKLWan`.
        latents: 1 × channels × latent frames × height/8 × width/8, normalised as the transformer has them.

    Yields:
        Each frame, height × width × 3.

    Raises:
        GenerationError: The numbers are not finite.
    """
    check_latents(latents)
    shown = _denormalised(vae, latents.to(vae.dtype))
    if _is_tiled(vae, shown):
        yield from _as_pixels(vae.decode(shown, return_dict=False)[0])
        return
    vae.clear_cache()
    try:
        for index, latent in enumerate(torch.split(vae.post_quant_conv(shown), 1, dim=2)):
            vae._conv_idx = [0]  # the decoder counts its layers in it, to find what it kept for each
            first = {"first_chunk": True} if index == 0 else {}
            yield from _as_pixels(vae.decoder(latent, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, **first).clamp(-1.0, 1.0))
    finally:
        vae.clear_cache()


def decode_within_memory(
    vae: Any, latents: Tensor, rungs: Iterable[Rung], warn: Callable[[str], None], *, free: int | None
) -> Generator[Pixels]:
    """Decodes a clip, and goes on with a remedy more when memory does not suffice. What was handed over is not handed over again.

    Where it is known beforehand that the whole does not fit, it begins with tiles.

    Args:
        vae: An `AutoencoderKLWan`.
        latents: As for `decode_frames`.
        rungs: What else can be done, after tiles.
        warn: Is told of each remedy that was used.
        free: Bytes of the GPU's memory that can be had; None on a CPU, which is never short of so little.

    Yields:
        Each frame, height × width × 3.

    Raises:
        GenerationError: The numbers are not finite.
        OutOfMemory: Memory did not suffice with every remedy.
    """
    tiles = Rung("the clip was decoded in tiles", lambda: in_tiles(vae))
    short = free is not None and free < needed_to_decode(8 * latents.shape[-1], 8 * latents.shape[-2])
    decoding = _Decoding(lambda: decode_frames(vae, latents))
    with in_tiles(vae) if short else nullcontext(), Ladder((FREED, tiles, *rungs), warn) as ladder, closing(decoding):
        while (frame := ladder.climb(decoding.next_frame)) is not None:
            yield frame


class _Decoding:
    """A decoding that begins anew after a lack of memory, and skips what it has handed over."""

    def __init__(self, begin: Callable[[], Generator[Pixels]]) -> None:
        self._begin = begin
        self._decoding: Generator[Pixels] | None = None
        self._given = 0

    def next_frame(self) -> Pixels | None:
        """The next frame, None after the last."""
        if self._decoding is None:
            self._decoding = self._begin()
            next(islice(self._decoding, self._given, self._given), None)
        failed = True
        try:
            frame = next(self._decoding, None)
            failed = False
        finally:
            if failed:
                self.close()
        self._given += 1
        return frame

    def close(self) -> None:
        """Lets go of everything that it works with."""
        if self._decoding is not None:
            self._decoding.close()
            self._decoding = None


def not_of_one_colour(frames: Iterator[Pixels]) -> Iterator[Pixels]:
    """Hands frames on, and makes sure in the end that at least one of them has more than one colour.

    A clip may fade to black, so that single frames prove nothing; a clip of plain frames alone was decoded from nothing. It is known only
    when all were seen, and early enough: a clip is stored when it is whole. The VAE of WAN computes in float32, so nothing is to be gained
    by decoding it again.

    Raises:
        GenerationError: All frames are of one colour each.
    """
    plain = True
    for frame in frames:
        plain = plain and is_one_colour(frame)
        yield frame
    if plain:
        raise GenerationError(ONE_COLOUR)


@contextmanager
def coded_in(vae: Any, free: int | None, needed: int) -> Iterator[bool]:
    """Has the VAE work in tiles while the body runs if `needed` bytes, for the whole, are more than are free. Yields whether."""
    tiled = free is not None and free < needed
    with in_tiles(vae) if tiled else nullcontext():
        yield tiled


def needed_to_decode(width: int, height: int) -> int:
    """Bytes that WAN's VAE works with while it decodes, in full precision; the same for any number of frames above four.

    8.3 GB were measured for 480 × 832 with the published VAE; what it works with grows with the number of pixels.
    """
    return int(8.3e9 * width * height / (480 * 832))


def encode_still(vae: Any, picture: Tensor) -> Tensor:
    """A picture's latents, as the transformer has them.

    Args:
        vae: An `AutoencoderKLWan`.
        picture: 1 × 3 × height × width in -1 … 1.

    Returns:
        Channels × height/8 × width/8.
    """
    mean, scale = _statistics(vae, picture)
    latents: Tensor = (vae.encode(picture[:, :, None].to(vae.dtype)).latent_dist.mode() - mean) * scale
    return latents[0, :, 0]


def _denormalised(vae: Any, latents: Tensor) -> Tensor:
    """The latents as the VAE has them."""
    mean, scale = _statistics(vae, latents)
    return latents / scale + mean


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the latents, and one over their deviation: diffusers divides by that, and the last bit depends on doing likewise."""
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean, deviation = (torch.tensor(vae.config[f"latents_{name}"]).view(shape).to(like) for name in ("mean", "std"))
    return mean, 1.0 / deviation


def _is_tiled(vae: Any, latents: Tensor) -> bool:
    ratio = vae.spatial_compression_ratio
    least = (vae.tile_sample_min_height // ratio, vae.tile_sample_min_width // ratio)
    return bool(vae.use_tiling) and bool(latents.shape[-2] > least[0] or latents.shape[-1] > least[1])


def _as_pixels(decoded: Tensor) -> Iterator[Pixels]:
    """1 × 3 × frames × height × width in -1 … 1 → its frames."""
    yield from to_pixels(decoded[0].transpose(0, 1) / 2 + 0.5)
