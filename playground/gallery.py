"""Pictures and clips of the demo, made large enough to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

ENLARGED = 4
_COLUMNS = 4
_GAP = 12  # pixels
_LINE = 18  # pixels
_LINES = 2
_CHARACTERS = 34  # of a line under a picture of 256 pixels


def contact_sheet(pictures: Sequence[tuple[Path, str]]) -> Image.Image:
    """Draws pictures side by side, enlarged, each with its prompt underneath.

    Args:
        pictures: At least one: the file and its prompt. All are of the first one's size.

    Returns:
        An RGB picture with four in a row.
    """
    with Image.open(pictures[0][0]) as first:
        width, height = first.width * ENLARGED, first.height * ENLARGED
    columns = min(_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    across, down = width + _GAP, height + _LINES * _LINE + _GAP
    sheet = Image.new("RGB", (columns * across + _GAP, rows * down + _GAP), "white")
    for number, (path, prompt) in enumerate(pictures):
        row, column = divmod(number, columns)
        _place(sheet, path, prompt, (_GAP + column * across, _GAP + row * down, width, height))
    return sheet


def _place(sheet: Image.Image, path: Path, prompt: str, box: tuple[int, int, int, int]) -> None:
    left, top, width, height = box
    with Image.open(path) as picture:
        sheet.paste(picture.convert("RGB").resize((width, height), Image.Resampling.NEAREST), (left, top))
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((left - 1, top - 1, left + width, top + height), outline="lightgrey")
    for line, text in enumerate(textwrap.wrap(prompt, _CHARACTERS, max_lines=_LINES, placeholder=" …")):
        pen.text((left, top + height + 3 + line * _LINE), text, "black", ImageFont.load_default(14))


def preview(clip: Path, gif: Path) -> int:
    """Writes a clip as an animation that web pages show without a player, enlarged.

    Args:
        clip: A video file.
        gif: Where the animation goes; it repeats for ever.

    Returns:
        The number of frames.
    """
    with av.open(clip) as container:
        stream = container.streams.video[0]
        milliseconds = round(1000 / float(stream.average_rate or 8))
        frames = [Image.fromarray(frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
    # Few colors and no dithering: grain is what makes such files large.
    few = [frame.quantize(16, dither=Image.Dither.NONE) for frame in frames]
    large = [frame.resize((frame.width * ENLARGED, frame.height * ENLARGED), Image.Resampling.NEAREST) for frame in few]
    large[0].save(gif, save_all=True, append_images=large[1:], duration=milliseconds, loop=0)
    return len(frames)
