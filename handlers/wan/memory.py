"""What a clip takes of the GPU's memory, beside the models: what does not fit is refused before any work, and what fits is fitted in.

The figures are those of the published networks. They were counted without a GPU: one call of each network at its full size on tensors
without numbers, adding up what is alive at once. Their unit is one byte; a token stands for 16 × 16 pixels of a latent frame, and latent
frames for one frame and then four each.

Transformer, in bfloat16, for each token (1.3B: 49 300 at 32 760 tokens; 14B: 114 300)::

    14.1 × width + 3.1 × feed-forward width        the tensors of one block
    + 2 × width × (blocks that look at pictures + 1)    VACE only: it keeps what all of them say (1.3B: 98 500 in all)

VAE, in float32, whatever the number of frames, because it works on four at a time::

    decode   20 800 × pixels      encode   14 400 × pixels

For decoding that is what a process was seen to grow by (8.3 GB at 480 × 832); 19 500 were counted.

In tiles of 256 × 256 these count for one tile; a clip that is decoded in tiles is held as a whole, 17 × pixels × frames, and a clip that is
encoded is given as up to four videos of 12 × pixels × frames.

For 81 frames of 480 × 832 through VACE that is 3.2 GB for the transformer and 8.3 GB for decoding, in tiles 1.9 GB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from handlers.wan.clip_sizes import STEP
from handlers.wan.decoding import needed_to_decode
from handlers.wan.request import WanRequest
from shared.contract.sizes import Size
from shared.errors import OutOfMemory
from shared.models.device import Memory

_TILE_SIZE = (256, 256)
_TILE = 256 * 256
_ENCODE = 14_400
_DECODED, _GIVEN = 17, 48
_RESERVE = 1_000_000_000
"""Bytes for what is not a tensor: CUDA's context, workspaces of libraries, gaps between tensors."""


@dataclass(frozen=True)
class Work:
    """One clip on its way through the networks.

    Attributes:
        width: In pixels.
        height: In pixels.
        frames: As many as are made.
        pictures: How many latent frames are made besides, for pictures to resemble.
        encodes: Whether pictures are encoded.
    """

    width: int
    height: int
    frames: int
    pictures: int = 0
    encodes: bool = False

    @property
    def pixels(self) -> int:
        """Of one frame."""
        return self.width * self.height

    def denoising(self, transformer: Any) -> int:
        """Bytes that a step takes."""
        config = transformer.config
        width: int = config.num_attention_heads * config.attention_head_dim
        looking = len(config.get("vace_layers") or ())
        each = 14.1 * width + 3.1 * config.ffn_dim + (2 * width * (looking + 1) if looking else 0)
        tokens = self.pixels // 256 * ((self.frames - 1) // 4 + 1 + self.pictures)
        return int(each * tokens)

    def decoding(self, *, tiled: bool) -> int:
        """Bytes that it takes to decode it."""
        whole = needed_to_decode(self.width, self.height)
        return min(whole, needed_to_decode(*_TILE_SIZE)) + _DECODED * self.pixels * self.frames if tiled else whole

    def encoding(self, *, tiled: bool) -> int:
        """Bytes that it takes to encode what it goes by; 0 where it goes by nothing."""
        if not self.encodes:
            return 0
        return _ENCODE * (min(self.pixels, _TILE) if tiled else self.pixels) + _GIVEN * self.pixels * self.frames

    def most(self, transformer: Any, *, tiled: bool) -> int:
        """Bytes that it takes at its worst moment."""
        # What is decoded in tiles is never less than the whole of it where that is no larger than a tile.
        decoding = min(self.decoding(tiled=True), self.decoding(tiled=False)) if tiled else self.decoding(tiled=False)
        return max(self.denoising(transformer), decoding, self.encoding(tiled=tiled))


def work_of(request: WanRequest, made: int) -> Work:
    """What a request means.

    Args:
        request: Its size and its references.
        made: Frames that are made for it.
    """
    resembles = request.reference_mode == "single" or request.frames == 1
    return Work(request.width, request.height, made, len(request.references) if resembles else 0, bool(request.references))


def check_memory(work: Work, transformer: Any, memory: Memory, weights: int) -> None:
    """Refuses a clip that cannot fit, even in tiles and with the text encoder out of the way.

    Args:
        work: The clip.
        transformer: The one that makes it.
        memory: Where it must fit.
        weights: Bytes of the networks that must be there beside it.

    Raises:
        OutOfMemory: It names what would fit.
    """
    if memory.total is None:
        return
    room, needed = memory.total - weights - _RESERVE, work.most(transformer, tiled=True)
    if needed <= room:
        return
    fitting = " or ".join(_fitting(work, transformer, room)) or "nothing smaller fits either: ask the operator for a larger GPU"
    raise OutOfMemory(
        f"{work.frames} frames of {Size(work.width, work.height)} need {needed / 1e9:.1f} GB of memory beside the models, and this worker "
        f"has {max(room, 0) / 1e9:.1f} GB. What would fit: {fitting}."
    )


def _fitting(work: Work, transformer: Any, room: int) -> Iterator[str]:
    """The most frames of the same size, and the largest size of nearly the same aspect with as many frames."""
    for frames in range(work.frames - 4, 0, -4):
        if Work(work.width, work.height, frames, work.pictures, work.encodes).most(transformer, tiled=True) <= room:
            yield f"{frames} frames of {Size(work.width, work.height)}"
            break
    for width in range(work.width - STEP, 0, -STEP):
        height = max(STEP, round(work.height * width / work.width / STEP) * STEP)
        if Work(width, height, work.frames, work.pictures, work.encodes).most(transformer, tiled=True) <= room:
            yield f"{work.frames} frames of {Size(width, height)}"
            break
