"""Decodes untrusted images within limits."""

from __future__ import annotations

import math
import struct
import threading
import warnings
from collections.abc import Mapping
from io import BytesIO
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps

from shared.media.containers import ImageFile, UnreadableImage, damaged, read_container
from shared.media.webp import free_decoder_early

Pixels = NDArray[np.uint8]
"""Height × width × 3, RGB, 0 … 255."""


MAX_PIXELS = 7680 * 4320
"""An 8K frame, 100 MB decoded."""

MIN_SIDE, MAX_SIDE, MAX_RATIO = 16, 8192, 8
"""Pixels of the shorter and the longer side, and the maximum aspect ratio."""

MAX_JOB_PIXELS = 2 * MAX_PIXELS
"""Of all images of a job together: five photographs of 12 megapixels, or fifteen images of the largest output size."""

# The largest output. An image of four times as many pixels or more is scaled down as it is decoded.
_KEPT_PIXELS = 2048 * 2048

# The transposition that undoes each EXIF orientation.
_TRANSPOSITIONS: Mapping[object, Image.Transpose] = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)

# The exceptions that Pillow raises for damaged files. Any other is a bug and must not be hidden.
_DECODER_ERRORS = (OSError, ValueError, SyntaxError, EOFError, LookupError, ArithmeticError, TypeError, AssertionError, struct.error)

# One image is decoded at a time, so that the memory of decoding does not add up over the references of a job, or over jobs.
_DECODER = threading.Lock()

# The same limits are enforced here for every image, with an error instead of a warning.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class PixelBudget:
    """The pixels that the images of one job may have together. Thread-safe.

    Args:
        limit: Their number.
    """

    def __init__(self, limit: int = MAX_JOB_PIXELS) -> None:
        self._limit, self._spent = limit, 0

    def spend(self, pixels: int) -> None:
        """Counts an image before it is decoded. Called while no other image is.

        Raises:
            UnreadableImage: The images have more pixels than the limit.
        """
        self._spent += pixels
        if self._spent > self._limit:
            raise UnreadableImage(f"the images of this job have more than {self._limit} pixels together; send smaller ones")


def open_image(content: bytes, *, mask: bool = False, budget: PixelBudget | None = None, seconds: float | None = None) -> Image.Image:
    """Decodes an untrusted image, at a cost that is known before it is decoded.

    Uses the first frame, applies the EXIF orientation, flattens alpha on white, and scales 16 bits per channel to 8. Colours are
    interpreted as sRGB; an embedded profile is ignored. An image much larger than any output is scaled down by a whole number.

    Args:
        content: A PNG, JPEG or WebP file. No other decoder is tried.
        mask: Whether alpha that varies is the mask: transparent pixels are white, opaque ones black. Constant alpha is ignored.
        budget: The pixels of the job.
        seconds: How long to wait for other images that are being decoded.

    Returns:
        An RGB image. The file has sides from `MIN_SIDE` to `MAX_SIDE`, at most `MAX_PIXELS` in total, an aspect ratio up to `MAX_RATIO`.

    Raises:
        UnreadableImage: The reason.
        TimeoutError: Other images were decoded for all of the time.
    """
    file = read_container(content)
    if not _DECODER.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX)):
        raise TimeoutError
    try:
        image = _decode(file, file.content, mask, budget or PixelBudget())
        if file.probe is not None and image != _decode(file, file.probe, mask, PixelBudget()):
            raise damaged()
        return image
    finally:
        _DECODER.release()


def _decode(file: ImageFile, content: bytes, mask: bool, budget: PixelBudget) -> Image.Image:
    try:
        with Image.open(BytesIO(content), formats=(file.format,)) as image:
            _check_size(*image.size)
            budget.spend(image.width * image.height)
            small = _upright(_load_small(image), file.orientation)
            return _to_mask(small) if mask else _to_rgb(small)
    except UnreadableImage:
        raise
    except Image.DecompressionBombError:
        raise UnreadableImage(f"it has more than {MAX_PIXELS} pixels") from None
    except _DECODER_ERRORS:
        raise damaged() from None


def _check_size(width: int, height: int) -> None:
    short, long = sorted((width, height))
    if short < MIN_SIDE or long > MAX_SIDE or width * height > MAX_PIXELS or long > MAX_RATIO * short:
        raise UnreadableImage(
            f"it is {width} × {height} pixels; allowed are sides from {MIN_SIDE} to {MAX_SIDE}, "
            f"at most {MAX_PIXELS} pixels in total, and an aspect ratio of at most {MAX_RATIO}"
        )


def _load_small(image: Image.Image) -> Image.Image:
    """Loads the pixels; of large images, the mean of each square of some size. A JPEG is scaled while it is decoded."""
    factor = math.isqrt(image.width * image.height // _KEPT_PIXELS)
    if factor < 2:
        image.load()
        return image
    wanted = image.width // factor, image.height // factor
    image.draft("", wanted)
    free_decoder_early(image)
    image.load()
    left = min(image.width // wanted[0], image.height // wanted[1])
    return image if left < 2 or image.mode.startswith(("I", "1", "P")) else image.reduce(left)


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    transpose = _TRANSPOSITIONS.get(orientation)
    return image if transpose is None else image.transpose(transpose)


def _to_mask(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _scale_to_8_bits(image).convert("RGB")
    alpha = image.convert("RGBA").getchannel("A")
    low, high = alpha.getextrema()
    return (image if low == high else ImageChops.invert(alpha)).convert("RGB")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _scale_to_8_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    opaque = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    # Pillow clips instead of scaling: every value above 255 of 65 535 would turn white.
    table = ((np.arange(65536) + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if transparent is not None:
        table[transparent] = 255
    return Image.fromarray(table[np.asarray(image)])


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """Fits an image to `width` × `height` by a centre crop and one LANCZOS resampling, without padding."""
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def fit_with(image: Image.Image, picture: Image.Image, width: int, height: int) -> Image.Image:
    """Fits an image that covers a picture as a whole, such as its mask, by the crop that `fit` gives the picture.

    Args:
        image: Of any size and aspect ratio.
        picture: The picture.
        width: Of the result, in pixels.
        height: Of the result, in pixels.
    """
    scale = max(width / picture.width, height / picture.height)
    left, top = (1 - width / scale / picture.width) / 2, (1 - height / scale / picture.height) / 2
    box = left * image.width, top * image.height, (1 - left) * image.width, (1 - top) * image.height
    return image.resize((width, height), Image.Resampling.LANCZOS, box)
