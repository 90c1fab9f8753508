"""Which sizes a clip may have, and which of them comes nearest to one that it may not have."""

from __future__ import annotations

import math

from shared.contract.sizes import Size

STEP = 16
"""Each side is a multiple of it."""

LONGEST_SIDE = 8192
"""More pixels on one side than any operator's area allows to be filled sensibly."""


def is_legal(size: Size, max_area: int) -> bool:
    """Whether a clip may have this size.

    Args:
        size: In pixels.
        max_area: The operator's limit of width × height.
    """
    return all(side % STEP == 0 and side <= LONGEST_SIDE for side in size) and size.area <= max_area


def nearest_legal(size: Size, max_area: int) -> Size:
    """The legal size that is nearest to another, after shrinking that one to the largest area if need be.

    Among equally near sizes the one with the nearer aspect wins: 1024×1024 becomes 624×624, not 624×640.

    Args:
        size: In pixels.
        max_area: The operator's limit of width × height; at least 16 × 16.
    """
    shrink = min(1.0, math.sqrt(max_area / size.area))
    wanted = (size.width * shrink, size.height * shrink)
    widths = _neighbours(wanted[0], max_area // STEP)
    candidates = [Size(width, height) for width in widths for height in _neighbours(wanted[1], max_area // width)]
    return min(candidates, key=lambda candidate: _distance(candidate, wanted))


def _neighbours(side: float, most: int) -> set[int]:
    below = math.floor(side / STEP) * STEP
    largest = min(max(STEP, most // STEP * STEP), LONGEST_SIDE)
    return {min(max(near, STEP), largest) for near in (below, below + STEP)}


def _distance(size: Size, wanted: tuple[float, float]) -> tuple[float, float]:
    width, height = math.log(size.width / wanted[0]), math.log(size.height / wanted[1])
    # Rounded, so that sums that are equal but for the last digits count as equal.
    return round(abs(width) + abs(height), 9), abs(width - height)
