"""Enlarged views of the demo's results: a contact sheet of images and a GIF of a clip."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
from PIL import Image, ImageDraw, ImageFont

SCALE = 4
_COLUMNS = 4
_GAP = 12  # pixels
_LINE_HEIGHT = 18  # pixels
_CAPTION_LINES = 2
_CAPTION_WIDTH = 34  # characters per line below an image of 256 pixels


def contact_sheet(images: Sequence[tuple[Path, str]]) -> Image.Image:
    """Arranges enlarged images in a grid, each with its prompt as a caption.

    Args:
        images: At least one file and its prompt. All images must have the size of the first.

    Returns:
        An RGB image with four columns.
    """
    with Image.open(images[0][0]) as first:
        width, height = first.width * SCALE, first.height * SCALE
    columns = min(_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    across, down = width + _GAP, height + _CAPTION_LINES * _LINE_HEIGHT + _GAP
    sheet = Image.new("RGB", (columns * across + _GAP, rows * down + _GAP), "white")
    for number, (path, prompt) in enumerate(images):
        row, column = divmod(number, columns)
        _place(sheet, path, prompt, (_GAP + column * across, _GAP + row * down, width, height))
    return sheet


def _place(sheet: Image.Image, path: Path, prompt: str, box: tuple[int, int, int, int]) -> None:
    left, top, width, height = box
    with Image.open(path) as image:
        sheet.paste(image.convert("RGB").resize((width, height), Image.Resampling.NEAREST), (left, top))
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((left - 1, top - 1, left + width, top + height), outline="lightgrey")
    for line, text in enumerate(textwrap.wrap(prompt, _CAPTION_WIDTH, max_lines=_CAPTION_LINES, placeholder=" …")):
        pen.text((left, top + height + 3 + line * _LINE_HEIGHT), text, "black", ImageFont.load_default(14))


def write_gif(clip: Path, gif: Path) -> int:
    """Converts a clip to an enlarged GIF, which web pages show without a player.

    Args:
        clip: A video file.
        gif: The file to write; it loops forever.

    Returns:
        The number of frames.
    """
    milliseconds = round(1000 / float(iio.immeta(clip, plugin="pyav")["fps"]))
    frames = [Image.fromarray(frame) for frame in iio.imread(clip, plugin="pyav")]
    # A small palette without dithering, because noise is what makes GIFs large.
    quantized = [frame.quantize(16, dither=Image.Dither.NONE) for frame in frames]
    enlarged = [frame.resize((frame.width * SCALE, frame.height * SCALE), Image.Resampling.NEAREST) for frame in quantized]
    enlarged[0].save(gif, save_all=True, append_images=enlarged[1:], duration=milliseconds, loop=0)
    return len(frames)
