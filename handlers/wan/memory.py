"""Memory estimates: a clip that cannot fit the GPU is refused before any work, and one that fits only in part is tiled or offloaded.

The figures are those of the published networks, counted without a GPU: one call of each network at full size on meta tensors, adding up
the tensors that are alive at the same time. They are in bytes. A token stands for 16 × 16 pixels of a latent frame; the first latent frame
stands for one frame, each other one for four.

Transformer, in bfloat16, per token (1.3B: 49 300 at 32 760 tokens; 14B: 114 300)::

    14.1 × width + 3.1 × feed-forward width    the tensors of one block
    + 2 × width × (VACE blocks + 1)            VACE only: the hints of all its blocks are kept (1.3B: 98 500 in total)
    + 2 × width × tensors × passes             a step cache keeps 2 or 3 tensors from step to step, and with guidance twice as many

diffusers keeps the clip of pixels that VACE has encoded until the job ends, with its mask and latents: 14 × pixels × frames.

VAE, independent of the number of frames, because it processes four at a time::

    decode   17 500 × pixels in float32; 8 700 × pixels in float16, as on a GPU, with 0.15 GB for the copied weights
    encode   14 200 × pixels in float32

They are counted for four frames at a time. An image of one frame needs less: 5 400 for decoding in float16, 4 000 for encoding.
For decoding the counts were 16 400 and 8 200 (`benchmarks/wan_decoder.py`); a process grows by 7 % more.

With tiling, diffusers' decoder and encoder have one 256 × 256 tile: 20 800 × its pixels for decoding, in float32. A clip decoded in tiles
is also kept as a whole, 17 × pixels × frames. A clip to encode is passed as videos of 12 × pixels × frames: one for image to video; for
VACE three, and a mask that for reference images is a further two, for frames two of one channel.

`python -m benchmarks.feature_report` counts complete jobs with each feature at full size, which a test compares with these figures.

For 81 frames of 480 × 832 through VACE that is 3.7 GB for the transformer and 3.6 GB for decoding, 1.9 GB with tiling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from handlers.wan.decoding import decode_memory, decoding_dtype
from handlers.wan.features.step_caches import CACHED_TENSORS
from handlers.wan.request import WanRequest
from handlers.wan.sizes import STEP, padded_frames
from shared.contract.sizes import Size
from shared.errors import OutOfMemory
from shared.models.device import free_vram

_TILE_PIXELS = 256 * 256
_DECODE_TILE = 20_800 * _TILE_PIXELS
_ENCODE = 14_200
_DECODED_CLIP = 17
_IMAGE_TO_VIDEO_INPUT, _VACE_FRAMES_INPUT, _VACE_IMAGES_INPUT = 12, 44, 60
_VACE_KEPT = 14
_RESERVE = 1_000_000_000
"""Bytes for everything but tensors: the CUDA context, workspaces of libraries, fragmentation."""


@dataclass(frozen=True)
class DeviceMemory:
    """The memory of the device, with the operator's limit.

    Attributes:
        device: The device.
        limit: The bytes that the worker may use. On a CPU, where None means unlimited, it simulates a GPU of that size.
    """

    device: torch.device
    limit: int | None = None

    def enforce_limit(self) -> None:
        """Makes torch refuse allocations beyond the limit on a GPU."""
        if self.device.type == "cuda" and self.limit is not None:
            total = torch.cuda.get_device_properties(self.device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, self.limit / total), self.device)

    @property
    def total(self) -> int | None:
        """The bytes in total; None if unlimited."""
        if self.device.type != "cuda":
            return self.limit
        total = int(torch.cuda.get_device_properties(self.device).total_memory)
        return total if self.limit is None else min(total, self.limit)

    def free(self, resident: int) -> int | None:
        """Returns the bytes available for new tensors; None if unlimited.

        Args:
            resident: The bytes of the weights on the device. Ignored on a GPU, whose allocator knows.
        """
        if self.device.type != "cuda":
            return None if self.limit is None else self.limit - resident
        free = free_vram(self.device)
        left = None if self.limit is None else self.limit - torch.cuda.memory_allocated(self.device)
        return min(amount for amount in (free, left) if amount is not None)


@dataclass(frozen=True)
class MemoryEstimate:
    """The memory that a clip needs in addition to the weights.

    Attributes:
        width: In pixels.
        height: In pixels.
        frames: The frames that are generated.
        reference_frames: Latent frames that VACE generates in addition, one per reference image without a place in the clip.
        encodes_references: Whether references are encoded.
        decoding_dtype: The precision in which the VAE decodes.
        cached_tensors: The tensors of a token's width that a step cache keeps, those of both passes.
    """

    width: int
    height: int
    frames: int
    reference_frames: int = 0
    encodes_references: bool = False
    decoding_dtype: torch.dtype = torch.float32
    cached_tensors: int = 0

    @classmethod
    def of(cls, request: WanRequest, vae: Any) -> MemoryEstimate:
        """Estimates the memory for a request and the VAE that will decode it."""
        resembles = request.reference_mode == "single" or request.frames == 1
        references = len(request.references)
        frames = padded_frames(request.frames)
        cached = CACHED_TENSORS.get(request.acceleration, 0) * (2 if request.guidance_scale > 1 else 1)
        return cls(request.width, request.height, frames, references if resembles else 0, references > 0, decoding_dtype(vae), cached)

    @property
    def pixels(self) -> int:
        """Pixels of one frame."""
        return self.width * self.height

    def denoising(self, transformer: Any) -> int:
        """Returns the bytes that one step needs."""
        config = transformer.config
        width: int = config.num_attention_heads * config.attention_head_dim
        vace_blocks = _vace_blocks(transformer)
        per_token = 14.1 * width + 3.1 * config.ffn_dim + (2 * width * (vace_blocks + 1) if vace_blocks else 0)
        tokens = self.pixels // 256 * ((self.frames - 1) // 4 + 1 + self.reference_frames)
        kept = _VACE_KEPT * self.pixels * self.frames if vace_blocks and self.encodes_references else 0
        return int((per_token + 2 * width * self.cached_tensors) * tokens) + kept

    def decoding(self, *, tiled: bool) -> int:
        """Returns the bytes that decoding needs."""
        whole = decode_memory(self.width, self.height, self.decoding_dtype)
        return min(whole, _DECODE_TILE) + _DECODED_CLIP * self.pixels * self.frames if tiled else whole

    def encoding(self, transformer: Any, *, tiled: bool) -> int:
        """Returns the bytes that encoding the references needs; 0 without references."""
        if not self.encodes_references:
            return 0
        vace_input = _VACE_IMAGES_INPUT if self.reference_frames else _VACE_FRAMES_INPUT
        clips = (vace_input if _vace_blocks(transformer) else _IMAGE_TO_VIDEO_INPUT) * self.pixels * self.frames
        return _ENCODE * (min(self.pixels, _TILE_PIXELS) if tiled else self.pixels) + clips

    def peak(self, transformer: Any, *, tiled: bool) -> int:
        """Returns the largest number of bytes needed at any time."""
        # A clip no larger than a tile needs more when it is tiled.
        decoding = min(self.decoding(tiled=True), self.decoding(tiled=False)) if tiled else self.decoding(tiled=False)
        return max(self.denoising(transformer), decoding, self.encoding(transformer, tiled=tiled))


def _vace_blocks(transformer: Any) -> int:
    return len(transformer.config.get("vace_layers") or ())


def check_memory(estimate: MemoryEstimate, transformer: Any, memory: DeviceMemory, resident: int) -> None:
    """Refuses a clip that cannot fit even with tiling and with the text encoder offloaded.

    Args:
        estimate: Of the clip.
        transformer: The one that will generate it.
        memory: The device's memory.
        resident: The bytes of the networks that stay on the device.

    Raises:
        OutOfMemory: The message names sizes and lengths that would fit.
    """
    if memory.total is None:
        return
    available, needed = memory.total - resident - _RESERVE, estimate.peak(transformer, tiled=True)
    if needed <= available:
        return
    fitting = " or ".join(_fitting(estimate, transformer, available)) or "none: ask the operator for a larger GPU"
    raise OutOfMemory(
        f"{estimate.frames} frames of {Size(estimate.width, estimate.height)} need {needed / 1e9:.1f} GB of memory in addition to the "
        f"models, and this worker has {max(available, 0) / 1e9:.1f} GB. Clips that fit: {fitting}."
    )


def _fitting(estimate: MemoryEstimate, transformer: Any, available: int) -> Iterator[str]:
    """Yields the most frames of the same size, and the largest size of about the same aspect with as many frames."""
    for frames in range(estimate.frames - 4, 0, -4):
        if replace(estimate, frames=frames).peak(transformer, tiled=True) <= available:
            yield f"{frames} frames of {Size(estimate.width, estimate.height)}"
            break
    for width in range(estimate.width - STEP, 0, -STEP):
        height = max(STEP, round(estimate.height * width / estimate.width / STEP) * STEP)
        if replace(estimate, width=width, height=height).peak(transformer, tiled=True) <= available:
            yield f"{estimate.frames} frames of {Size(width, height)}"
            break
