"""Tiled upscaling by a factor of two or four."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from handlers.sdxl.nested import Upscale
from handlers.sdxl.postprocess.upscaler import load_upscaler, read_info
from shared.errors import ModelUnavailable, OutOfMemory
from shared.jobs.recipe import JobRun
from shared.media.images import Pixels
from shared.models.device import memory_footprint
from shared.models.oom import run_once
from shared.models.pixels import to_pixels
from shared.weights.addons import AddonLibrary
from shared.weights.errors import WeightsError

TILE = 512
"""The largest tile side in input pixels. In half precision Real-ESRGAN then needs about 2.1 GB."""

OVERLAP = 96
"""Context in input pixels around each tile.

An output pixel depends on inputs up to 350 pixels away, with decreasing weight. The largest deviation from an untiled result, measured with
Real-ESRGAN's weights in levels of 255: 119 at 16 pixels, 71 at 32, 10 at 48, 0.7 at 64.
"""

GRID = 32
"""Tiles and their context begin at multiples of it in input pixels, so that the windows of a network with window attention do too."""


def choose_upscaler(settings: Upscale, addons: AddonLibrary) -> str:
    """Returns the name of the requested upscaler, or of the first in the alphabet with the smallest sufficient scale.

    Raises:
        ModelUnavailable: It is not installed, unusable, or its scale is no multiple of the factor.
    """
    if settings.model is not None:
        _check_readable(settings.model, addons)
    suitable = _suitable(settings, addons)
    if settings.model is None and suitable:
        return min(suitable, key=lambda name: (suitable[name], name))
    if settings.model is not None and settings.model in suitable:
        return settings.model
    problem = f"upscaler {settings.model!r} does not support" if settings.model is not None else "no installed upscaler supports"
    advice = f"Available: {', '.join(sorted(suitable))}." if suitable else "Omit it, or ask the operator to install one."
    raise ModelUnavailable(f"`config.upscale`: {problem} factor {settings.factor}. {advice}")


def _check_readable(name: str, addons: AddonLibrary) -> None:
    try:
        read_info(addons.find("upscalers", name))
    except WeightsError as error:
        raise ModelUnavailable(f"Upscaler {name!r} cannot be used: {error.reason}. Omit it, or ask the operator to replace it.") from error


def _suitable(settings: Upscale, addons: AddonLibrary) -> dict[str, int]:
    """Returns the upscalers whose scale is a multiple of the requested factor, and their scales."""
    suitable = {}
    for name in addons.names("upscalers"):
        with suppress(WeightsError):  # an unreadable file is not suitable
            scale = read_info(addons.find("upscalers", name)).scale
            if scale % settings.factor == 0:
                suitable[name] = scale
    return suitable


def upscale(
    pixels: Pixels, settings: Upscale, addons: AddonLibrary, device: torch.device, dtype: torch.dtype, run: JobRun
) -> tuple[Pixels, str]:
    """Upscales an image.

    Args:
        pixels: Height × width × 3, both multiples of 8.
        settings: Factor and upscaler.
        addons: The library with the upscalers.
        device: Where the upscaler runs.
        dtype: Its precision.
        run: Checked for cancellation before each tile; receives a warning if memory requires smaller tiles.

    Returns:
        The upscaled image, and the upscaler's name.

    Raises:
        ModelUnavailable: The upscaler is unusable.
        OutOfMemory: Memory was insufficient for the smallest tiles.
        Cancelled: The job was stopped.
        JobTimeout: Its deadline has passed.
    """
    name = choose_upscaler(settings, addons)
    network = addons.load("upscalers", name, lambda file: load_upscaler(file, device, dtype), lambda loaded: memory_footprint(loaded.model))
    for tile in (TILE, TILE // 2, TILE // 4):
        if tile < TILE:
            run.warn("Out of memory; the image was upscaled in smaller tiles.")
        succeeded, large = run_once(partial(upscale_tiled, pixels, network, settings.factor, run.cancel.check, tile=tile))
        if succeeded and large is not None:
            return large, name
    raise OutOfMemory("Out of memory while upscaling, even in small tiles. Omit `config.upscale`.")


def upscale_tiled(
    pixels: Pixels, network: Any, factor: int, check: Callable[[], None], *, tile: int = TILE, overlap: int = OVERLAP
) -> Pixels:
    """Upscales an image tile by tile. The result of a network with a larger scale is averaged down.

    Args:
        pixels: Height × width × 3, both multiples of 8.
        network: The upscaler, as `load_upscaler` returns it.
        factor: 2 or 4, a divisor of the network's scale.
        check: Called before each tile.
        tile: The largest tile side, in pixels; a multiple of `GRID`.
        overlap: The context around a tile, in pixels; a multiple of `GRID`.
    """
    height, width, _ = pixels.shape
    large = np.empty((factor * height, factor * width, 3), np.uint8)
    for rows, context_rows in tile_spans(height, tile, overlap):
        for columns, context_columns in tile_spans(width, tile, overlap):
            check()
            context = torch.from_numpy(pixels[context_rows, context_columns].copy())
            upscaled = _run(context.to(network.device).permute(2, 0, 1)[None].to(network.dtype) / 255, network, factor)
            inner = upscaled[..., _inner(rows, context_rows, factor), _inner(columns, context_columns, factor)]
            large[_scaled(rows, factor), _scaled(columns, factor)] = to_pixels(inner)[0]
    return large


def _run(image: Tensor, network: Any, factor: int) -> Tensor:
    upscaled: Tensor = network(image)
    return upscaled if network.scale == factor else functional.avg_pool2d(upscaled, network.scale // factor)


def tile_spans(length: int, tile: int, overlap: int) -> Iterator[tuple[slice, slice]]:
    """Divides a side into tiles, as equal as multiples of `GRID` allow.

    Args:
        length: The side in pixels.
        tile: The largest tile in pixels, a multiple of `GRID`; the last one may be larger by less than `GRID`.
        overlap: The context in pixels.

    Yields:
        The tile, and the tile with its context.
    """
    parts = -(-length // tile)
    borders = [length * part // parts // GRID * GRID for part in range(parts)] + [length]
    for start, end in pairwise(borders):
        yield slice(start, end), slice(max(0, start - overlap), min(length, end + overlap))


def _inner(tile: slice, context: slice, factor: int) -> slice:
    return slice(factor * (tile.start - context.start), factor * (tile.stop - context.start))


def _scaled(tile: slice, factor: int) -> slice:
    return slice(factor * tile.start, factor * tile.stop)
