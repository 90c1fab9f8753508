"""Finished pictures become two or four times larger, by networks of the operator's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from handlers.sdxl.nested import Upscale
from handlers.sdxl.postprocess.rrdbnet import RRDBNet, form_of, load_upscaler
from handlers.sdxl.request import SdxlRequest
from shared.errors import ModelUnavailable, OutOfMemory
from shared.jobs.recipe import Run
from shared.media.images import Pixels
from shared.models.device import size_of
from shared.models.oom import attempt
from shared.models.pixels import to_pixels
from shared.settings import SettingsError
from shared.weights.addons import Shelf

TILE = 512
"""Pixels of the picture, a side at most, that are enlarged at a time. In half precision the network then works with some 3 GB."""

OVERLAP = 96
"""Pixels beyond a tile's own that it is given to see, on each side.

What a pixel becomes depends on others as far as 350 away, and less and less on the farther ones. Measured with Real-ESRGAN's own weights,
most difference from the picture enlarged as a whole, in levels of 255: 119 at 16 pixels, 71 at 32, 10 at 48, 0.7 at 64.
"""


def accept(request: SdxlRequest, shelf: Shelf) -> None:
    """Refuses an enlargement that nothing on the shelf can make.

    Raises:
        ModelUnavailable: It names the field and what can be done.
    """
    if request.upscale is not None:
        choose(request.upscale, shelf)


def choose(asked: Upscale, shelf: Shelf) -> str:
    """The upscaler's name: the one asked for, or else the first in the alphabet that enlarges just as many times, or more.

    Raises:
        ModelUnavailable: There is none.
    """
    if asked.model is not None:
        shelf.find("upscalers", asked.model)
    able = _able(asked, shelf)
    if asked.model is None and able:
        return min(able, key=lambda name: (able[name], name))
    if asked.model is not None and asked.model in able:
        return asked.model
    named = f" {asked.model!r}" if asked.model is not None else ""
    there = f"there is {', '.join(sorted(able))} for that" if able else "there is none for that"
    raise ModelUnavailable(
        f"config.upscale: this worker has no upscaler{named} for {asked.factor} times; {there}. "
        "Name another one, leave it out, or ask the operator to add one."
    )


def _able(asked: Upscale, shelf: Shelf) -> dict[str, int]:
    """The factors of those that enlarge at least as many times."""
    able = {}
    for name in shelf.names("upscalers"):
        with suppress(SettingsError):  # what cannot be read cannot be used
            factor = form_of(shelf.find("upscalers", name)).factor
            if factor >= asked.factor:
                able[name] = factor
    return able


def upscale(pixels: Pixels, asked: Upscale, shelf: Shelf, device: torch.device, dtype: torch.dtype, run: Run) -> tuple[Pixels, str]:
    """Enlarges a picture.

    Args:
        pixels: Height × width × 3, both multiples of 8.
        asked: How many times, and by what.
        shelf: What there is.
        device: Where to work.
        dtype: In which precision.
        run: Its token is looked at before each tile, and it is told where memory did not suffice for tiles of the usual size.

    Returns:
        The larger picture, and the upscaler's name.

    Raises:
        ModelUnavailable: The upscaler cannot be used.
        OutOfMemory: Memory did not suffice for the smallest tiles.
        Cancelled: The job was stopped.
        JobTimeout: Its deadline has passed.
    """
    name = choose(asked, shelf)
    network = shelf.load("upscalers", name, lambda file: load_upscaler(file, device, dtype), size_of)
    for tile in (TILE, TILE // 2, TILE // 4):
        if tile < TILE:
            run.warn("Memory did not suffice; the picture was enlarged in smaller tiles.")
        done, large = attempt(partial(enlarge, pixels, network, asked.factor, run.cancel.check, tile=tile))
        if done and large is not None:
            return large, name
    raise OutOfMemory("Memory did not suffice for enlarging the picture, even in small tiles: ask for it without config.upscale.")


def enlarge(
    pixels: Pixels, network: RRDBNet, factor: int, check: Callable[[], None], *, tile: int = TILE, overlap: int = OVERLAP
) -> Pixels:
    """Enlarges a picture tile by tile. Where the network enlarges more than is wanted, each 2 × 2 of its pixels become their mean.

    Args:
        pixels: Height × width × 3, both multiples of 8.
        network: What enlarges.
        factor: 2 or 4, at most the network's.
        check: Called before each tile.
        tile: Pixels of a tile's side at most.
        overlap: Pixels around it that it is given to see; even.
    """
    height, width, _ = pixels.shape
    large = np.empty((factor * height, factor * width, 3), np.uint8)
    weight = network.conv_last.weight
    for rows, seen_rows in spans(height, tile, overlap):
        for columns, seen_columns in spans(width, tile, overlap):
            check()
            seen = torch.from_numpy(pixels[seen_rows, seen_columns].copy())
            made = _enlarged(seen.to(weight.device).permute(2, 0, 1)[None].to(weight.dtype) / 255, network, factor)
            own = made[..., _inner(rows, seen_rows, factor), _inner(columns, seen_columns, factor)]
            large[_times(rows, factor), _times(columns, factor)] = to_pixels(own)[0]
    return large


def _enlarged(picture: Tensor, network: RRDBNet, factor: int) -> Tensor:
    made: Tensor = network(picture)
    return made if network.form.factor == factor else functional.avg_pool2d(made, network.form.factor // factor)


def spans(length: int, tile: int, overlap: int) -> Iterator[tuple[slice, slice]]:
    """Divides a side into tiles as equal as can be, in steps of 8.

    Args:
        length: Pixels of the side, a multiple of 8.
        tile: Pixels of a tile at most, likewise.
        overlap: Pixels that are seen beyond it.

    Yields:
        What is the tile's own, and what it sees.
    """
    parts = -(-length // tile)
    borders = [length * part // parts // 8 * 8 for part in range(parts)] + [length]
    for start, end in pairwise(borders):
        yield slice(start, end), slice(max(0, start - overlap), min(length, end + overlap))


def _inner(own: slice, seen: slice, factor: int) -> slice:
    return slice(factor * (own.start - seen.start), factor * (own.stop - seen.start))


def _times(own: slice, factor: int) -> slice:
    return slice(factor * own.start, factor * own.stop)
