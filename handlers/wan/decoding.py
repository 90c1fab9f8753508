"""Decodes latents to frames, four at a time, so that a clip is never held in memory in float32; and encodes single images."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from handlers.wan.decoder import StreamingDecoder
from shared.errors import GenerationError
from shared.media.images import Pixels
from shared.models.oom import EMPTY_CACHE, Fallback, OOMRecovery, tiled
from shared.models.pixels import SINGLE_COLOUR, check_latents, decoded_to_pixels, is_single_colour


def decoding_dtype(vae: Any) -> torch.dtype:
    """Returns the precision in which a VAE decodes: float16 on a GPU, where it takes half the time and memory, and its own elsewhere.

    Bfloat16, in which WAN's transformer computes, has fewer bits: its pixels differ from float32's by up to eight levels, float16's by one.
    """
    return torch.float16 if vae.device.type == "cuda" else vae.dtype


def decode_frames(vae: Any, latents: Tensor, dtype: torch.dtype | None = None) -> Generator[Pixels]:
    """Decodes a clip, yielding each frame as soon as it is decoded.

    The VAE is causal: it decodes the first latent frame to one frame and each other one to four, and caches the features that later frames
    need. `vae.decode` does the same but concatenates all frames first; in float32 each frame here equals its frame, bit for bit.

    Args:
        vae: An `AutoencoderKLWan`.
        latents: 1 × channels × latent frames × height/8 × width/8, normalised as for the transformer.
        dtype: The precision; None: the VAE's own. In tiles it is always the VAE's own.

    Yields:
        Each frame, height × width × 3.

    Raises:
        GenerationError: The decoded pixels are not finite.
    """
    scaled = _denormalised(vae, latents.to(vae.dtype))
    if _is_tiled(vae, scaled):
        yield from _as_pixels(vae.decode(scaled, return_dict=False)[0])
        return
    decoder = StreamingDecoder(vae.decoder, dtype or vae.dtype)
    for latent in torch.split(vae.post_quant_conv(scaled), 1, dim=2):
        yield from _as_pixels(decoder.decode(latent).float().clamp_(-1.0, 1.0))


def decode_with_fallbacks(
    vae: Any,
    latents: Tensor,
    fallbacks: Iterable[Fallback],
    warn: Callable[[str], None],
    *,
    free: int | None,
    dtype: torch.dtype | None = None,
) -> Generator[Pixels]:
    """Decodes a clip, and resumes with one more fallback when memory runs out. No frame is yielded twice.

    Where half precision does not suffice, it resumes in the VAE's own. Where memory is known not to suffice for the whole, it starts with
    tiling.

    Args:
        vae: An `AutoencoderKLWan`.
        latents: As for `decode_frames`.
        fallbacks: What to try after tiling.
        warn: Receives a warning for each fallback that was used.
        free: The bytes available for new tensors; None if unlimited.
        dtype: The precision to begin with; None: `decoding_dtype`.

    Yields:
        Each frame, height × width × 3.

    Raises:
        GenerationError: The latents, or the decoded pixels, are not finite.
        OutOfMemory: Memory ran out with all fallbacks applied.
    """
    check_latents(latents)
    dtype = dtype or decoding_dtype(vae)
    tiles = Fallback("the clip was decoded in tiles", lambda: tiled(vae))
    short = free is not None and free < decode_memory(8 * latents.shape[-1], 8 * latents.shape[-2], dtype)
    decoding = _ResumableDecoding(vae, latents, dtype, warn)
    with tiled(vae) if short else nullcontext(), OOMRecovery((EMPTY_CACHE, tiles, *fallbacks), warn) as recovery, closing(decoding):
        while (frame := recovery.run(decoding.next_frame)) is not None:
            yield frame


class _ResumableDecoding:
    """Restarts the decoding after a failure, and skips the frames that were returned already."""

    def __init__(self, vae: Any, latents: Tensor, dtype: torch.dtype, warn: Callable[[str], None]) -> None:
        self._vae, self._latents, self._dtype, self._warn = vae, latents, dtype, warn
        self._frames: Generator[Pixels] | None = None
        self._returned = 0

    def next_frame(self) -> Pixels | None:
        """Returns the next frame, None after the last."""
        try:
            frame = self._next()
        except GenerationError:
            if self._dtype == self._vae.dtype:
                raise
            self._dtype = self._vae.dtype
            self._warn("The VAE failed in half precision; the clip was decoded in float32.")
            frame = self._next()
        self._returned += 1
        return frame

    def _next(self) -> Pixels | None:
        if self._frames is None:
            self._frames = decode_frames(self._vae, self._latents, self._dtype)
            next(islice(self._frames, self._returned, self._returned), None)
        failed = True
        try:
            frame = next(self._frames, None)
            failed = False
        finally:
            if failed:
                self.close()
        return frame

    def close(self) -> None:
        """Releases the tensors of the current decoding."""
        if self._frames is not None:
            self._frames.close()
            self._frames = None


def reject_single_colour(frames: Iterator[Pixels]) -> Iterator[Pixels]:
    """Passes frames on, and fails at the end if each of them was a single colour.

    A clip may fade to black, so one such frame proves nothing; a clip of nothing else is a failed decoding. The error comes in time: a clip
    is stored only when it is complete. A higher precision could not help: what overflows in half precision is not finite.

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


def decode_memory(width: int, height: int, dtype: torch.dtype = torch.float32) -> int:
    """Returns the bytes that WAN's VAE needs for decoding in a precision, for any number of frames above four (see `memory.py`)."""
    pixels = width * height
    return 17_500 * pixels if dtype == torch.float32 else 8_700 * pixels + 150_000_000


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
