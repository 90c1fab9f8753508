"""Decodes latents to frames, four at a time, so that a clip is never held in memory in float32; and encodes single images."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from shared.errors import GenerationError
from shared.media.images import Pixels
from shared.models.oom import EMPTY_CACHE, Fallback, OOMRecovery, tiled
from shared.models.pixels import SINGLE_COLOUR, check_latents, decoded_to_pixels, is_single_colour


def decode_frames(vae: Any, latents: Tensor) -> Generator[Pixels]:
    """Decodes a clip, yielding each frame as soon as it is decoded.

    The VAE is causal: it decodes the first latent frame to one frame and each other one to four, and caches the features that later frames
    need. `vae.decode` does the same but concatenates all frames first; each frame here equals its frame, bit for bit.

    Args:
        vae: An `AutoencoderKLWan`.
        latents: 1 × channels × latent frames × height/8 × width/8, normalised as for the transformer.

    Yields:
        Each frame, height × width × 3.

    Raises:
        GenerationError: The latents, or the decoded pixels, are not finite.
    """
    check_latents(latents)
    scaled = _denormalised(vae, latents.to(vae.dtype))
    if _is_tiled(vae, scaled):
        yield from _as_pixels(vae.decode(scaled, return_dict=False)[0])
        return
    vae.clear_cache()
    try:
        for index, latent in enumerate(torch.split(vae.post_quant_conv(scaled), 1, dim=2)):
            vae._conv_idx = [0]  # the decoder counts its layers in it, to find the cached features of each
            first = {"first_chunk": True} if index == 0 else {}
            yield from _as_pixels(vae.decoder(latent, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, **first).clamp(-1.0, 1.0))
    finally:
        vae.clear_cache()


def decode_with_fallbacks(
    vae: Any, latents: Tensor, fallbacks: Iterable[Fallback], warn: Callable[[str], None], *, free: int | None
) -> Generator[Pixels]:
    """Decodes a clip, and resumes with one more fallback when memory runs out. No frame is yielded twice.

    Where memory is known not to suffice for the whole, it starts with tiling.

    Args:
        vae: An `AutoencoderKLWan`.
        latents: As for `decode_frames`.
        fallbacks: What to try after tiling.
        warn: Receives a warning for each fallback that was used.
        free: The bytes available for new tensors; None if unlimited.

    Yields:
        Each frame, height × width × 3.

    Raises:
        GenerationError: The latents, or the decoded pixels, are not finite.
        OutOfMemory: Memory ran out with all fallbacks applied.
    """
    tiles = Fallback("the clip was decoded in tiles", lambda: tiled(vae))
    short = free is not None and free < decode_memory(8 * latents.shape[-1], 8 * latents.shape[-2])
    decoding = _ResumableDecoding(lambda: decode_frames(vae, latents))
    with tiled(vae) if short else nullcontext(), OOMRecovery((EMPTY_CACHE, tiles, *fallbacks), warn) as recovery, closing(decoding):
        while (frame := recovery.run(decoding.next_frame)) is not None:
            yield frame


class _ResumableDecoding:
    """Restarts the decoding after a failure, and skips the frames that were returned already."""

    def __init__(self, start: Callable[[], Generator[Pixels]]) -> None:
        self._start = start
        self._frames: Generator[Pixels] | None = None
        self._returned = 0

    def next_frame(self) -> Pixels | None:
        """Returns the next frame, None after the last."""
        if self._frames is None:
            self._frames = self._start()
            next(islice(self._frames, self._returned, self._returned), None)
        failed = True
        try:
            frame = next(self._frames, None)
            failed = False
        finally:
            if failed:
                self.close()
        self._returned += 1
        return frame

    def close(self) -> None:
        """Releases the tensors of the current decoding."""
        if self._frames is not None:
            self._frames.close()
            self._frames = None


def reject_single_colour(frames: Iterator[Pixels]) -> Iterator[Pixels]:
    """Passes frames on, and fails at the end if each of them was a single colour.

    A clip may fade to black, so one such frame proves nothing; a clip of nothing else is a failed decoding. The error comes in time: a clip
    is stored only when it is complete. WAN's VAE computes in float32, so a higher precision could not help.

    Raises:
        GenerationError: Every frame is a single colour.
    """
    single_colour = True
    for frame in frames:
        single_colour = single_colour and is_single_colour(frame)
        yield frame
    if single_colour:
        raise GenerationError(SINGLE_COLOUR)


@contextmanager
def vae_encode_tiling(vae: Any, free: int | None, needed: int) -> Iterator[bool]:
    """Makes the VAE encode in tiles while the body runs, if fewer than `needed` bytes are free. Yields whether it does."""
    use_tiling = free is not None and free < needed
    with tiled(vae) if use_tiling else nullcontext():
        yield use_tiling


def decode_memory(width: int, height: int) -> int:
    """Returns the bytes that WAN's VAE needs for decoding in float32, for any number of frames above four.

    8.3 GB were measured for 480 × 832 with the published VAE; the figure is proportional to the number of pixels.
    """
    return int(8.3e9 * width * height / (480 * 832))


def encode_image(vae: Any, image: Tensor) -> Tensor:
    """Encodes an image to latents, normalised as for the transformer.

    Args:
        vae: An `AutoencoderKLWan`.
        image: 1 × 3 × height × width in -1 … 1.

    Returns:
        Channels × height/8 × width/8.
    """
    mean, scale = _statistics(vae, image)
    latents: Tensor = (vae.encode(image[:, :, None].to(vae.dtype)).latent_dist.mode() - mean) * scale
    return latents[0, :, 0]


def _denormalised(vae: Any, latents: Tensor) -> Tensor:
    """The latents as the VAE expects them."""
    mean, scale = _statistics(vae, latents)
    return latents / scale + mean


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """The latents' mean, and the reciprocal of their deviation: diffusers divides by it, and the last bit depends on doing the same."""
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean, deviation = (torch.tensor(vae.config[f"latents_{name}"]).view(shape).to(like) for name in ("mean", "std"))
    return mean, 1.0 / deviation


def _is_tiled(vae: Any, latents: Tensor) -> bool:
    ratio = vae.spatial_compression_ratio
    tile = (vae.tile_sample_min_height // ratio, vae.tile_sample_min_width // ratio)
    return bool(vae.use_tiling) and bool(latents.shape[-2] > tile[0] or latents.shape[-1] > tile[1])


def _as_pixels(decoded: Tensor) -> Iterator[Pixels]:
    """1 × 3 × frames × height × width in -1 … 1 → its frames."""
    yield from decoded_to_pixels(decoded[0].transpose(0, 1))
