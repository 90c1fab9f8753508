"""Decoding untrusted images, and encoding."""

import re
import struct
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin
from PIL.PngImagePlugin import PngInfo

from shared.media.containers import UnreadableImage
from shared.media.encoding import IMAGE_TYPES, encode_image, thumbnail
from shared.media.images import Pixels, fit, open_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def gradient(height: int = 48, width: int = 64) -> Pixels:
    """Returns an image with gradients in both directions and distinct channels."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=-1).astype(np.uint8)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def opened(image: Image.Image, format: str = "PNG", **options: Any) -> Image.Image:
    return open_image(saved(image, format, **options))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_zeros(width: int, height: int) -> bytes:
    """Returns a small file that declares a large size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
def test_supported_formats_open_as_rgb(format: str) -> None:
    picture = opened(Image.fromarray(gradient()), format)
    assert (picture.mode, picture.size, type(picture)) == ("RGB", (64, 48), Image.Image)
    assert np.abs(np.asarray(picture, int) - gradient()).mean() < 6


@pytest.mark.parametrize("format", ["GIF", "TIFF", "BMP", "ICO", "PPM", "JPEG2000", "TGA", "PDF", "AVIF"])
def test_other_formats_are_refused(format: str) -> None:
    with pytest.raises(UnreadableImage, match="not a PNG, JPEG or WebP"):
        opened(Image.fromarray(gradient()), format)


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe", b"\x00" * 5000])
def test_content_that_is_not_an_image_is_refused(content: bytes) -> None:
    with pytest.raises(UnreadableImage, match="not a PNG, JPEG or WebP"):
        open_image(content)


@pytest.mark.parametrize(
    "size", [(50_000, 50_000), (13_000, 13_000), (8200, 2000), (7700, 4400), (15, 100), (1, 1), (1, 20_000), (160, 17)]
)
def test_size_limits_are_checked_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(UnreadableImage, match="pixels"):
        open_image(png_of_zeros(*size))


@pytest.mark.parametrize("size", [(16, 16), (128, 16), (16, 128)])
def test_smallest_and_longest_images_open(size: tuple[int, int]) -> None:
    assert opened(Image.new("RGB", size)).size == size


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_largest_image_opens_scaled_down_by_a_whole_number(format: str) -> None:
    assert opened(Image.new("L", (7680, 4320)), format).size == (3840, 2160)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_large_image_of_every_mode_opens(mode: str) -> None:
    assert opened(Image.new(mode, (4096, 4096)), compress_level=1).mode == "RGB"


@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
def test_truncated_image_is_refused(format: str) -> None:
    content = saved(Image.fromarray(gradient()), format)
    with pytest.raises(UnreadableImage):
        open_image(content[: len(content) // 2])


def test_image_without_its_palette_is_refused() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 3, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(33 * 32)))
    with pytest.raises(UnreadableImage, match="damaged"):
        open_image(b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b""))


def test_compressed_text_is_skipped_without_being_decompressed() -> None:
    info = PngInfo()
    info.add_text("a", "b" * 70_000_000, zip=True)
    assert opened(Image.fromarray(gradient()), pnginfo=info).size == (64, 48)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_first_frame_of_an_animation_is_used(format: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, GREEN, BLUE)]
    assert opened(frames[0], format, save_all=True, append_images=frames[1:], duration=50, lossless=True).getpixel((5, 5)) == RED


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.fromarray(gradient())
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that each orientation stands for
    turned = upright.transpose(Image.Transpose(undo[orientation])) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(np.asarray(opened(turned, exif=exif)), gradient())


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_alpha_is_flattened_on_white(mode: str, format: str) -> None:
    assert opened(Image.new("RGBA", (32, 32), (*RED, 0)).convert(mode), format, lossless=True, exact=True).getpixel((5, 5)) == WHITE


def test_half_transparent_red_becomes_pink() -> None:
    assert opened(Image.new("RGBA", (32, 32), (255, 0, 0, 128))).getpixel((5, 5)) == (255, 127, 127)


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "I;16"])
def test_transparent_colour_key_becomes_white(mode: str) -> None:
    image = Image.new(mode, (32, 32), 7 if mode != "RGB" else (7, 7, 7))
    if mode == "P":
        image.putpalette([0, 0, 0] * 256)
    assert opened(image, transparency=7 if mode != "RGB" else (7, 7, 7)).getpixel((5, 5)) == WHITE


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (40_000, 156), (32_768, 128), (65_535, 255)])
def test_sixteen_bit_channels_are_scaled_not_clipped(value: int, expected: int) -> None:
    image = Image.fromarray(np.full((32, 32), value, np.uint16))
    assert opened(image).getpixel((5, 5)) == (expected,) * 3


def test_black_and_white_and_cmyk_keep_their_colours() -> None:
    assert opened(Image.new("1", (32, 32), 1)).getpixel((5, 5)) == WHITE
    red, green, blue = np.asarray(opened(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG"))[5, 5]
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("exif", [b"Exif\x00\x00II*\x00\xff\xff\xff\xff garbage", b"Exif\x00\x00no TIFF header"])
def test_broken_exif_is_ignored(exif: bytes) -> None:
    assert opened(Image.fromarray(gradient()), "JPEG", exif=exif).size == (64, 48)


SAMPLES = {name: saved(Image.fromarray(gradient()), name, exif=Image.Exif()) for name in ("PNG", "WEBP", "JPEG")}


@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=8))
def test_damaged_image_opens_or_raises_unreadable_image(format: str, damage: list[tuple[int, int]]) -> None:
    content = bytearray(SAMPLES[format])
    for place, flip in damage:
        content[place % len(content)] ^= flip
    with suppress(UnreadableImage):
        assert open_image(bytes(content)).mode == "RGB"


def test_fit_crops_the_centre_and_never_pads() -> None:
    image = Image.new("RGB", (300, 100), RED)
    image.paste(BLUE, (100, 0, 200, 100))
    fitted = fit(image, 64, 64)
    assert fitted.size == (64, 64)
    assert {fitted.getpixel((x, y)) for x in (8, 32, 55) for y in (0, 32, 63)} == {BLUE}


def test_fit_to_the_same_size_is_a_no_op() -> None:
    assert np.array_equal(np.asarray(fit(Image.fromarray(gradient()), 64, 48)), gradient())


@pytest.mark.parametrize("format", list(IMAGE_TYPES))
def test_the_same_pixels_give_the_same_bytes(format: str) -> None:
    assert encode_image(gradient(), format) == encode_image(gradient().copy(), format)


def test_png_is_lossless() -> None:
    assert np.array_equal(np.asarray(Image.open(BytesIO(encode_image(gradient(), "png")))), gradient())


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (257, 131), (1024, 1024)])
def test_png_of_any_size_decodes_to_the_same_pixels_everywhere(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(7).normal(128, 30, (*size, 3)).astype(np.uint8)
    content = encode_image(pixels, "png")
    assert np.array_equal(np.asarray(Image.open(BytesIO(content))), pixels)
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert np.array_equal(decoded[..., ::-1], pixels)


def test_png_of_a_photograph_is_at_most_15_per_cent_larger_than_pillow_default() -> None:
    with Image.open(Path(__file__).parents[3] / "docs/images/demo.png") as picture:
        pixels = np.asarray(picture.convert("RGB").resize((1024, 1024), Image.Resampling.LANCZOS))
    grain = np.random.default_rng(7).normal(0, 2, pixels.shape)
    pixels = (pixels + grain).clip(0, 255).astype(np.uint8)
    assert len(encode_image(pixels, "png")) < 1.15 * len(saved(Image.fromarray(pixels), "PNG"))


def test_a_view_of_pixels_encodes_as_its_copy() -> None:
    assert encode_image(gradient()[::2, ::-1], "png") == encode_image(gradient()[::2, ::-1].copy(), "png")


@pytest.mark.parametrize(("format", "error"), [("jpeg", 2.0), ("webp", 4.0)])
def test_lossy_formats_are_close_and_have_the_declared_type(format: str, error: float) -> None:
    image = Image.open(BytesIO(encode_image(gradient(), format)))
    assert Image.MIME[str(image.format)] == IMAGE_TYPES[format].mime
    assert np.abs(np.asarray(image.convert("RGB"), int) - gradient()).mean() < error


def test_jpeg_has_no_chroma_subsampling() -> None:
    assert JpegImagePlugin.get_sampling(Image.open(BytesIO(encode_image(gradient(), "jpeg")))) == 0  # 4:4:4


def test_only_png_carries_text() -> None:
    image = Image.open(BytesIO(encode_image(gradient(), "png", text={"Seed": "7", "Titel": "größer"})))
    assert image.text == {"Seed": "7", "Titel": "größer"}  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="Only PNG supports"):
        encode_image(gradient(), "jpeg", text={"Seed": "7"})


@pytest.mark.parametrize("pixels", [gradient().astype(np.float32), gradient()[..., :2], gradient()[..., 0]])
def test_invalid_pixel_arrays_are_refused(pixels: Any) -> None:
    with pytest.raises(ValueError, match=re.escape("height × width × 3")):
        encode_image(pixels, "png")


def test_unknown_image_format_is_refused() -> None:
    with pytest.raises(ValueError, match="'gif'"):
        encode_image(gradient(), "gif")


def test_thumbnail_is_a_webp_with_the_same_aspect_ratio() -> None:
    image = Image.open(BytesIO(thumbnail(gradient(480, 832))))
    assert (image.format, image.size) == ("WEBP", (256, 148))


def test_thumbnail_is_never_upscaled() -> None:
    assert Image.open(BytesIO(thumbnail(gradient()))).size == (64, 48)
