"""Arranges enlarged images or clips in rows with labels, and encodes them for a web page."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

_SCALE = 2
_GAP = 8  # pixels
_LABEL = 20  # pixels
_LONG = 18  # characters of a label that fit below an image
_QUALITY = 60
DIGEST = "request"
"""The name of the PNG's text, and how the XMP data of an animation begins: the digest of what the picture was made of."""


def arrange(images: Sequence[Image.Image], labels: Sequence[str], columns: int) -> Image.Image:
    """Arranges images of one size, each with a label below it.

    Returns:
        An RGB image.
    """
    width, height = (side * _SCALE for side in images[0].size)
    columns = min(columns, len(images))
    across, down = width + _GAP, height + _LABEL + _GAP
    sheet = Image.new("RGB", (columns * across + _GAP, -(-len(images) // columns) * down + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        left, top = _GAP + index % columns * across, _GAP + index // columns * down
        sheet.paste(image.convert("RGB").resize((width, height), Image.Resampling.NEAREST), (left, top))
        pen.rectangle((left - 1, top - 1, left + width, top + height), outline="lightgrey")
        pen.text((left + width / 2, top + height + 3), label, "black", _font(label), anchor="ma")
    return sheet


def png(sheet: Image.Image, digest: str) -> bytes:
    """Encodes a sheet with 256 colors."""
    info = PngInfo()
    info.add_text(DIGEST, digest)
    encoded = io.BytesIO()
    sheet.quantize(256, dither=Image.Dither.NONE).save(encoded, "PNG", optimize=True, pnginfo=info)
    return encoded.getvalue()


def webp(sheets: Sequence[Image.Image], fps: int, digest: str) -> bytes:
    """Encodes sheets as the frames of an animation that loops forever."""
    encoded = io.BytesIO()
    options = {"duration": round(1000 / fps), "loop": 0, "quality": _QUALITY, "method": 6, "xmp": f"{DIGEST} {digest}".encode()}
    sheets[0].save(encoded, "WEBP", save_all=True, append_images=sheets[1:], **options)
    return encoded.getvalue()


def _font(label: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(13 if len(label) <= _LONG else 10)
