"""The sizes and lengths that a clip can have, and the nearest valid one to an invalid one."""

from __future__ import annotations

import math

from shared.contract.sizes import Size

STEP = 16
"""Width and height are multiples of it, in pixels."""

MAX_SIDE = 8192
"""Pixels; beyond it no area that an operator allows gives a sensible aspect ratio."""

MAX_FRAMES = 83


def is_valid(size: Size, max_area: int) -> bool:
    """Returns whether a clip can have this size.

    Args:
        size: In pixels.
        max_area: The operator's limit of width × height.
    """
    return all(side % STEP == 0 and side <= MAX_SIDE for side in size) and size.area <= max_area


def nearest_valid(size: Size, max_area: int) -> Size:
    """Returns the valid size nearest to another, which is first scaled down to the maximum area if necessary.

    Among equally near sizes the one with the closer aspect ratio wins: 1024×1024 becomes 624×624, not 624×640.

    Args:
        size: In pixels.
        max_area: The operator's limit of width × height; at least 16 × 16.
    """
    scale = min(1.0, math.sqrt(max_area / size.area))
    target = (size.width * scale, size.height * scale)
    widths = _neighbours(target[0], max_area // STEP)
    candidates = [Size(width, height) for width in widths for height in _neighbours(target[1], max_area // width)]
    return min(candidates, key=lambda candidate: _distance(candidate, target))


def padded_frames(frames: int) -> int:
    """Returns the next length of the form 4n + 1, which WAN's VAE requires. diffusers would round down."""
    return frames + (1 - frames) % 4


def _neighbours(side: float, maximum: int) -> set[int]:
    below = math.floor(side / STEP) * STEP
    largest = min(max(STEP, maximum // STEP * STEP), MAX_SIDE)
    return {min(max(near, STEP), largest) for near in (below, below + STEP)}


def _distance(size: Size, target: tuple[float, float]) -> tuple[float, float]:
    width, height = math.log(size.width / target[0]), math.log(size.height / target[1])
    # Rounded, so that sums that differ only by rounding errors are equal.
    return round(abs(width) + abs(height), 9), abs(width - height)
