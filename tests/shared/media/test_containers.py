"""Image files with unusual, damaged or hostile structure."""

import struct
import time
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.media.containers import MAX_PARTS, UnreadableImage, read_container
from shared.media.images import MAX_JOB_PIXELS, PixelBudget, open_image

RNG = np.random.default_rng(0)
PIXELS = np.asarray(Image.fromarray(RNG.integers(0, 255, (6, 8, 3), np.uint8)).resize((96, 64), Image.Resampling.BICUBIC))
PICTURE = Image.fromarray(PIXELS)


def saved(format: str, image: Image.Image = PICTURE, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


PNG, JPEG, PROGRESSIVE, WEBP = saved("PNG"), saved("JPEG"), saved("JPEG", progressive=True), saved("WEBP", lossless=True)


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def with_chunks(*chunks: bytes) -> bytes:
    """Returns the PNG with chunks after its header."""
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def with_segments(*segments: bytes, jpeg: bytes = JPEG) -> bytes:
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def with_riff_chunks(*chunks: bytes) -> bytes:
    body = WEBP[8:] + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def same(content: bytes, original: bytes = PNG) -> bool:
    return bool(open_image(content) == open_image(original))


HUGE = bytes(3_000_000)
BOMB = zlib.compress(bytes(70_000_000), 1)


@pytest.mark.parametrize(
    "content",
    [
        with_chunks(chunk(b"zTXt", b"workflow\0\0" + BOMB)),
        with_chunks(chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB)),
        with_chunks(chunk(b"iTXt", b"a\0\1")),
        with_chunks(chunk(b"tEXt", b"a\0" + HUGE)),
        with_chunks(chunk(b"iCCP", b"a\0\0" + BOMB)),
        with_chunks(chunk(b"iCCP", HUGE)),
        with_chunks(chunk(b"eXIf", HUGE)),
        with_chunks(chunk(b"tEXt", b"a\0b", crc=1)),
        with_chunks(chunk(b"pHYs", b"", crc=1), chunk(b"tIME", b"x", crc=2), chunk(b"gAMA", b"", crc=3), chunk(b"abCd", b"", crc=4)),
        PNG[:-12] + chunk(b"tEXt", b"a\0b", crc=1) + PNG[-12:],
        PNG[:-12] + chunk(b"iTXt", HUGE)[:-1000],
        PNG[:-12],
        PNG[:-4],
        PNG + b"trailing" * 100,
    ],
    ids=lambda content: f"{len(content)}",
)
def test_metadata_of_a_png_is_skipped_whatever_its_size_and_state(content: bytes) -> None:
    assert same(content)


@pytest.mark.parametrize(
    "content",
    [PNG[: len(PNG) // 2], PNG[:-17], PNG[:-20], PNG[:33], PNG[:20], PNG[:8], PNG[:16] + b"\0\0\0\1" + PNG[20:]],
    ids=["half", "checksum", "last bytes", "header alone", "half a header", "signature", "header changed"],
)
def test_png_without_all_of_its_pixels_is_refused(content: bytes) -> None:
    with pytest.raises(UnreadableImage, match="damaged"):
        open_image(content)


@pytest.mark.parametrize("original", [JPEG, PROGRESSIVE, saved("JPEG", PICTURE.convert("L")), saved("JPEG", PICTURE.convert("CMYK"))])
@pytest.mark.parametrize("tail", [b"", b"\xff", b"\0" * 100, b"\xff\x3cgarbage", b"\xff\xd8\xff\xe0", b"\xff\xe1\xff\xff", b"GIF89a"])
def test_jpeg_without_its_end_marker_opens(original: bytes, tail: bytes) -> None:
    assert same(original.removesuffix(b"\xff\xd9") + tail, original)


@pytest.mark.parametrize("original", [JPEG, PROGRESSIVE, saved("JPEG", PICTURE.convert("L"))])
def test_jpeg_without_all_of_its_pixels_is_refused(original: bytes) -> None:
    start = original.rindex(b"\xff\xda") + 20
    for length in (*range(start, len(original) - 8, 7), 20, 2, 100):
        with pytest.raises(UnreadableImage):
            open_image(original[:length])


def test_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    end = PROGRESSIVE.rindex(b"\xff\xda")
    with pytest.raises(UnreadableImage, match="damaged"):
        open_image(PROGRESSIVE[: PROGRESSIVE.rindex(b"\xff\xc4", 0, end)])


@pytest.mark.parametrize(
    "content",
    [
        with_segments(*(segment(0xE2, bytes(60_000)) for _ in range(50))),
        with_segments(*(segment(0xE1, b"Exif\0\0garbage") for _ in range(9_000))),
        with_segments(segment(0xFE, b"comment"), segment(0xE2, b"MPF\0" + bytes(50)), segment(0xED, b"Photoshop 3.0\0" + bytes(99))),
        JPEG + b"trailing" * 1000,
        JPEG + JPEG,
    ],
    ids=["profile", "Exif", "others", "trailing", "two files"],
)
def test_metadata_of_a_jpeg_is_skipped(content: bytes) -> None:
    assert same(content, JPEG)


def test_metadata_of_a_webp_is_skipped() -> None:
    assert same(with_riff_chunks(b"XMP " + struct.pack("<I", len(HUGE)) + HUGE, b"EXIF\xff\xff\xff\xff"), WEBP)


@pytest.mark.parametrize(
    "content",
    [
        with_segments(*[segment(0xE1, b"Exif\0\0")] * (MAX_PARTS + 1)),
        with_chunks(*[chunk(b"tEXt", b"a\0b")] * (MAX_PARTS + 1)),
        with_riff_chunks(*[b"abcd\0\0\0\0"] * (MAX_PARTS + 1)),
    ],
    ids=["JPEG", "PNG", "WebP"],
)
def test_file_with_too_many_parts_is_refused_in_time(content: bytes) -> None:
    began = time.process_time()
    with pytest.raises(UnreadableImage, match="parts"):
        open_image(content)
    assert time.process_time() - began < 1


def with_scans(count: int, jpeg: bytes) -> bytes:
    """Repeats the last scan of a JPEG."""
    start = jpeg.rindex(b"\xff\xda")
    return jpeg[:start] + jpeg[start:-2] * count + jpeg[-2:]


@pytest.mark.parametrize(
    "content",
    [
        with_scans(40_000, PROGRESSIVE),
        with_scans(200, JPEG),
        with_scans(30, saved("JPEG", Image.new("L", (7680, 4320)), progressive=True)),
    ],
    ids=["progressive", "baseline", "few scans of many pixels"],
)
def test_jpeg_with_too_many_scans_is_refused_before_decoding(content: bytes) -> None:
    began = time.process_time()
    with pytest.raises(UnreadableImage, match="too many scans"):
        open_image(content)
    assert time.process_time() - began < 0.5


def test_ordinary_progressive_jpeg_of_the_largest_size_opens() -> None:
    assert open_image(saved("JPEG", Image.new("RGB", (7680, 4320)), progressive=True)).size == (3840, 2160)


def test_bad_tags_are_neither_parsed_nor_warned_of(recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture) -> None:
    tags = b"II*\0\x08\0\0\0" + struct.pack("<H", 5000) + struct.pack("<HHII", 0x9000, 99, 2**31, 2**31) * 5000
    caplog.set_level("DEBUG")
    assert same(with_chunks(chunk(b"eXIf", tags)))
    assert same(with_segments(segment(0xE1, b"Exif\0\0" + tags)), JPEG)
    assert not recwarn.list
    assert not [record for record in caplog.records if record.name.startswith("PIL.Tiff")]


def test_animation_keeps_its_first_frame_only() -> None:
    frames = [Image.new("RGB", (32, 32), (index, 0, 0)) for index in range(200)]
    content = saved("WEBP", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    file = read_container(content)
    assert file.content.count(b"ANMF") == 1
    assert open_image(content).getpixel((5, 5)) == (0, 0, 0)


def test_images_of_a_job_have_a_common_limit_of_pixels() -> None:
    budget = PixelBudget()
    budget.spend(MAX_JOB_PIXELS - 96 * 64)
    assert open_image(PNG, budget=budget).size == (96, 64)
    with pytest.raises(UnreadableImage, match="together"):
        open_image(PNG, budget=budget)


def masks(alpha: np.ndarray[Any, Any], grey: int = 200) -> Image.Image:
    image = Image.new("RGBA", (32, 32), (grey, grey, grey, 255))
    image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    return image


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_transparent_part_of_a_mask_is_painted(format: str, mode: str) -> None:
    alpha = np.full((32, 32), 255)
    alpha[:, :16] = 0
    mask = open_image(saved(format, masks(alpha).convert(mode), lossless=True, exact=True), mask=True)
    assert (mask.getpixel((4, 4)), mask.getpixel((28, 4))) == ((255,) * 3, (0,) * 3)


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_constant_alpha_of_a_mask_is_ignored(alpha: int) -> None:
    assert open_image(saved("PNG", masks(np.full((32, 32), alpha))), mask=True).getpixel((4, 4)) == (200,) * 3
