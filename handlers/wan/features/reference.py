"""Pictures that a clip goes by. As VACE takes them: a video to keep to, a mask of what is to be made, and pictures to resemble."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from handlers.wan.request import WanRequest
from shared.media.images import fit

_GREY = (128, 128, 128)  # VACE's colour of what is not there yet (arXiv 2503.07598, 3.2)
_KEEP, _MAKE = 0, 255


@dataclass(frozen=True)
class Conditions:
    """What VACE is called with besides the prompts.

    Attributes:
        arguments: Of the pipeline.
        leading: Latent frames in front of the clip's own that it makes for pictures to resemble; they are not part of the clip.
    """

    arguments: Mapping[str, Any] = field(repr=False)
    leading: int


def conditions(request: WanRequest, references: Mapping[str, Image.Image], frames: int) -> Conditions:
    """Prepares a request's references.

    Each is cropped to exactly the clip's size: VACE takes any other, too, and fills up what is missing with black, without a word. A
    picture of one frame has no first or last one that could be kept, so it resembles what it is given.

    Args:
        request: Its size, its mode and its strength.
        references: Pictures of any size, RGB, by the names that `request.references` has.
        frames: How many will be made, at least as many as are delivered.
    """
    fitted = {name: fit(picture, request.width, request.height) for name, picture in references.items()}
    scale = conditioning_scale(request.reference_strength)
    arguments: dict[str, Any] = {"conditioning_scale": scale}
    if request.reference_mode == "single" or request.frames == 1:
        return Conditions(arguments | {"reference_images": list(fitted.values())}, leading=len(fitted))
    kept = _kept(fitted, request.frames, frames)
    size = (request.width, request.height)
    # One picture for all frames that are alike: a clip of them would be as large as the one that is made.
    grey, keep, make = Image.new("RGB", size, _GREY), Image.new("L", size, _KEEP), Image.new("L", size, _MAKE)
    video = [kept.get(index, grey) for index in range(frames)]
    mask = [keep if index in kept else make for index in range(frames)]
    return Conditions(arguments | {"video": video, "mask": mask}, leading=0)


def image_conditions(request: WanRequest, references: Mapping[str, Image.Image]) -> Conditions:
    """Prepares a request's references for a model that begins with a picture: each cropped to exactly the clip's size."""
    names = {"config.first_frame": "image", "config.last_frame": "last_image"}
    fitted = {names[name]: fit(picture, request.width, request.height) for name, picture in references.items()}
    return Conditions(fitted, leading=0)


@contextmanager
def ending_at(pipeline: Any, frame: int) -> Iterator[None]:
    """Has a model that ends with a picture end with it at a frame, and stay there, while the body runs."""
    pipeline.last_picture_at = frame
    try:
        yield
    finally:
        pipeline.last_picture_at = None


def _kept(fitted: Mapping[str, Image.Image], delivered: int, made: int) -> dict[int, Image.Image]:
    """Which frames are given. The last picture stands wherever the clip may end, so that the one that is cut ends on it."""
    kept = {}
    if "config.last_frame" in fitted:
        kept = dict.fromkeys(range(delivered - 1, made), fitted["config.last_frame"])
    if "config.first_frame" in fitted:
        kept[0] = fitted["config.first_frame"]
    return kept


def conditioning_scale(strength: float) -> float:
    """How much VACE's hints count: 0.5 … 1.5, and as in its training at a strength of 0.5.

    Args:
        strength: The request's, 0 … 1. Even at 0 a reference acts: a job never ignores one.
    """
    return 0.5 + strength
