"""Reduces untrusted PNG, JPEG and WebP files to what their pixels need, so that decoding has a known cost.

Metadata of any size is skipped without being decompressed or parsed, and faults in it do not matter. The numbers of parts and scans are
limited.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from shared.media.encoding import SIGNATURE, png_chunk

Format = Literal["PNG", "JPEG", "WEBP"]

MAX_PARTS: Final = 65_536
"""Chunks of a PNG or WebP file, segments of a JPEG file."""

MAX_SCANS: Final = 100
"""Scans of a JPEG file. Encoders write at most about twelve."""

MAX_SCANNED_PIXELS: Final = 16 * 7680 * 4320
"""Scans times pixels of a JPEG file with several scans: each scan passes over all coefficients."""

_MAX_EXIF_ENTRIES = 512
_ORIENTATION = 0x0112
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS")
_WEBP_KEPT = (b"VP8X", b"ALPH", b"ANIM", b"VP8 ", b"VP8L", b"ANMF")
_PICTURE = (b"VP8 ", b"VP8L", b"ANMF")
# Restart markers and escaped bytes belong to a scan's data.
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_SOI, _EOI, _SOS, _APP0, _APP1, _APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE
_JPEG_TABLES = {*range(0xC0, 0xD0), 0xDB, 0xDD}
_FRAMES = _JPEG_TABLES - {0xC4, 0xC8, 0xCC, 0xDB, 0xDD}
# These decide how colours are converted.
_COLOUR_SPACES = {(_APP0, b"JFIF"), (_APP14, b"Adob")}
_END = b"\xff\xd9"
# The decoder pads an incomplete block with zeros, and leaves those after it grey. Alternating bits are valid codes that give other blocks;
# a run of ones or of zeros often is no code at all, and the block is padded as before.
_PROBE = b"\xaa" * 96


class UnreadableImage(ValueError):
    """The content is not a usable image. The text is the reason, as the end of a sentence: `it is 9000 × 20 pixels …`."""


class ImageFile(NamedTuple):
    """An image file without metadata.

    Attributes:
        format: Its format, as Pillow calls it.
        content: A complete file.
        orientation: The EXIF orientation; 1 is upright.
        probe: For a JPEG without its end marker, the file with other padding. Its pixels are the same only if they need no padding.
    """

    format: Format
    content: bytes
    orientation: int = 1
    probe: bytes | None = None


def read_container(content: bytes) -> ImageFile:
    """Reads the structure of a file, in time linear in its size.

    Raises:
        UnreadableImage: It is none of the formats, damaged, or has too many parts.
    """
    for signature, read in _READERS:
        if signature.match(content):
            try:
                return read(content)
            except (struct.error, IndexError):
                raise damaged() from None
    raise UnreadableImage("it is not a PNG, JPEG or WebP image")


def damaged() -> UnreadableImage:
    """Returns the error for a file whose pixels cannot be decoded."""
    return UnreadableImage("the file is damaged")


def _count(parts: int) -> int:
    if parts > MAX_PARTS:
        raise UnreadableImage(f"it has more than {MAX_PARTS} parts; save it again without metadata")
    return parts


def _read_png(content: bytes) -> ImageFile:
    kept, pixels, orientation = [SIGNATURE], bytearray(), 1
    for kind, data, intact in _png_chunks(content):
        if not intact and not kind[0] & 0x20:  # a capital letter: a critical chunk
            raise damaged()
        if kind == b"IDAT":
            pixels += data
        elif kind in _PNG_KEPT and intact:
            kept.append(png_chunk(kind, data))
        elif kind == b"eXIf" and intact:
            orientation = exif_orientation(data)
    return ImageFile("PNG", b"".join([*kept, png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b"")]), orientation)


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, memoryview, bool]]:
    """Yields the kind and the data of each chunk, and whether it is complete and its CRC right. A missing end chunk does not matter."""
    view, position, parts = memoryview(content), len(SIGNATURE), 0
    while position + 8 <= len(content):
        parts = _count(parts + 1)
        length, kind = struct.unpack_from(">I4s", content, position)
        data, stored = view[position + 8 : position + 8 + length], content[position + 8 + length : position + 12 + length]
        if kind == b"IEND":
            return
        yield kind, data, len(stored) == 4 and int.from_bytes(stored) == zlib.crc32(data, zlib.crc32(kind))
        position += 12 + length


def _read_webp(content: bytes) -> ImageFile:
    kept: list[bytes] = []
    orientation, position, parts = 1, 12, 0
    while position + 8 <= len(content):
        parts = _count(parts + 1)
        kind, length = struct.unpack_from("<4sI", content, position)
        end = position + 8 + length + length % 2
        if kind == b"EXIF":
            orientation = exif_orientation(content[position + 8 : position + 8 + length])
        elif kind in _WEBP_KEPT:
            kept.append(content[position:end])
        position = end
    return ImageFile("WEBP", _webp_of(kept), orientation)


def _webp_of(chunks: list[bytes]) -> bytes:
    """Returns a file of these chunks, with the first frame only."""
    pictures = [chunk for chunk in chunks if chunk[:4] in _PICTURE]
    body = b"WEBP" + b"".join(chunk for chunk in chunks if chunk[:4] not in _PICTURE) + b"".join(pictures[:1])
    return b"RIFF" + struct.pack("<I", len(body)) + body


@dataclass
class _Jpeg:
    """The parts of a JPEG file that its pixels need.

    Attributes:
        kept: The parts, without the end marker.
        pixels: Of the frame.
        scans: Their number.
        missing: By component, the number of low bits that are missing of each coefficient.
    """

    kept: list[bytes] = field(default_factory=lambda: [b"\xff\xd8"], repr=False)
    orientation: int = 1
    pixels: int = 0
    scans: int = 0
    missing: dict[int, list[int]] = field(default_factory=dict)

    def add(self, marker: int, part: bytes) -> None:
        """Keeps a segment, with its marker, if pixels depend on it."""
        data = part[4:]
        if marker in _FRAMES:
            height, width, components = struct.unpack_from(">HHB", data, 1)
            self.pixels = height * width
            self.missing = {data[6 + 3 * index]: [16] * 64 for index in range(components)}
        if marker in _JPEG_TABLES or marker == _SOS or (marker, data[:4]) in _COLOUR_SPACES:
            self.kept.append(part)
        elif marker == _APP1 and self.orientation == 1 and data[:6] == b"Exif\x00\x00":
            self.orientation = exif_orientation(data[6:])

    def add_scan(self, header: bytes, data: bytes) -> None:
        """Keeps a scan's data.

        Raises:
            UnreadableImage: Decoding so many scans of so many pixels would take too long.
        """
        self.scans += 1
        if self.scans > MAX_SCANS or (self.scans > 1 and self.scans * self.pixels > MAX_SCANNED_PIXELS):
            raise UnreadableImage(f"it has too many scans for its size, {self.scans} or more; save it again as a baseline JPEG")
        count = header[4]
        first, last, bits = header[5 + 2 * count], header[6 + 2 * count], header[7 + 2 * count] & 15
        for index in range(count):
            missing = self.missing.get(header[5 + 2 * index], [])
            missing[first : last + 1] = [bits] * len(missing[first : last + 1])
        self.kept.append(data)

    @property
    def has_all_scans(self) -> bool:
        """Whether every coefficient has been refined to its last bit."""
        return not any(any(bits) for bits in self.missing.values())


def _read_jpeg(content: bytes) -> ImageFile:
    jpeg = _Jpeg()
    ended = _read_segments(content, jpeg)
    if not jpeg.scans:
        raise damaged()
    whole = b"".join(jpeg.kept)
    if ended:
        return ImageFile("JPEG", whole + _END, jpeg.orientation)
    if not jpeg.has_all_scans:
        raise damaged()
    whole = whole.rstrip(b"\xff")
    return ImageFile("JPEG", whole + _END, jpeg.orientation, probe=whole + _PROBE + _END)


def _read_segments(content: bytes, jpeg: _Jpeg) -> bool:
    """Reads segments up to the end marker. Returns whether there is one; without it, whatever follows the last scan does not matter."""
    position, parts = 2, 0
    while match := _JPEG_MARKER.search(content, position):
        parts = _count(parts + 1)
        marker, start = match[1][0], match.end()
        if marker == _EOI:
            return True
        end = start + int.from_bytes(content[start : start + 2])
        if marker < 0xC0 or marker == _SOI or not start + 2 <= end <= len(content):
            return False
        part = content[start - 2 : end]
        jpeg.add(marker, part)
        position = end
        if marker == _SOS:
            following = _JPEG_MARKER.search(content, end)
            position = following.start() if following else len(content)
            jpeg.add_scan(part, content[end:position])
    return False


def exif_orientation(exif: bytes | memoryview) -> int:
    """Returns the orientation from EXIF data, 1 … 8; 1 if there is none or the data is damaged.

    Pillow would parse, and warn of, every tag of the caller's.
    """
    exif = bytes(exif[: 2**16]).removeprefix(b"Exif\x00\x00")
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for index in range(min(count, _MAX_EXIF_ENTRIES)):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * index)
            if tag == _ORIENTATION:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


_READERS: Final[tuple[tuple[re.Pattern[bytes], Callable[[bytes], ImageFile]], ...]] = (
    (re.compile(re.escape(SIGNATURE)), _read_png),
    (re.compile(rb"\xff\xd8\xff"), _read_jpeg),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), _read_webp),
)
