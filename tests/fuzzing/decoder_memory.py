"""Prints how much peak memory grows while corrupted and oversized images are decoded: `python -m tests.fuzzing.decoder_memory COUNT`."""

from __future__ import annotations

import resource
import struct
import sys
from contextlib import suppress

from shared.media.containers import UnreadableImage
from shared.media.images import MAX_PIXELS, open_image
from tests.fuzzing.containers import Segment, join, split
from tests.fuzzing.exploration import explore
from tests.fuzzing.images import SAMPLES, corrupted_images

_LARGE = ((7680, 4320), (8192, 4050), (50_000, 50_000), (2**31 - 1, 16))


def enlarged(content: bytes, size: tuple[int, int]) -> bytes:
    """Returns a PNG with another declared size and correct checksums."""
    format, (header, *rest) = split(content)
    return join(format, [Segment(header.kind, struct.pack(">II", *size) + header.data[8:]), *rest])


def _open(content: bytes) -> None:
    with suppress(UnreadableImage):
        open_image(content)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Prints the growth in MiB and its limit: decoding an animation holds four frames of four bytes per pixel."""
    for content in SAMPLES.values():
        _open(content)
    before = _peak()
    explore(corrupted_images(), _open, int(sys.argv[1]))
    for name, content in SAMPLES.items():
        if "png" in name:
            for size in _LARGE:
                _open(enlarged(content, size))
    sys.stdout.write(f"{_peak() - before} {4 * 4 * MAX_PIXELS // 2**20}\n")


if __name__ == "__main__":
    main()
