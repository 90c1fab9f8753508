"""`python -m tests.fuzzing.decoder_memory`: opens damaged pictures, and such as say that they are large, and prints by how many MiB memory rose."""

from __future__ import annotations

import resource
import struct
import sys
from contextlib import suppress

from shared.media.images import MAX_PIXELS, UnreadableImage, open_image
from tests.fuzzing.containers import Piece, join, split
from tests.fuzzing.exploration import explore
from tests.fuzzing.images import SAMPLES, damaged

_LARGE = ((7680, 4320), (8192, 4050), (50_000, 50_000), (2**31 - 1, 16))


def enlarged(content: bytes, size: tuple[int, int]) -> bytes:
    """A PNG that says another size than it has, and has the sums that belong to that."""
    format, (header, *rest) = split(content)
    return join(format, [Piece(header.kind, struct.pack(">II", *size) + header.data[8:]), *rest])


def _open(content: bytes) -> None:
    with suppress(UnreadableImage):
        open_image(content)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Prints the rise, and the most that it may be: an animation has four frames in hand, of four bytes for each pixel."""
    for content in SAMPLES.values():
        _open(content)
    before = _peak()
    explore(damaged(), _open, int(sys.argv[1]))
    for name, content in SAMPLES.items():
        if "png" in name:
            for size in _LARGE:
                _open(enlarged(content, size))
    sys.stdout.write(f"{_peak() - before} {4 * 4 * MAX_PIXELS // 2**20}\n")


if __name__ == "__main__":
    main()
