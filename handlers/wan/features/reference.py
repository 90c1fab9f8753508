"""Reference images: the modes that the loaded weights support, and the pipeline arguments for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from handlers.wan.reference_modes import ReferenceMode
from handlers.wan.request import WanRequest
from handlers.wan.sizes import padded_frames
from handlers.wan.weights.load import WanPipelines
from shared.errors import ModelUnavailable
from shared.media.images import fit

_DEFAULT_STRENGTH = 0.5
_GREY = (128, 128, 128)  # VACE's colour of pixels to generate (arXiv 2503.07598, 3.2)
_KEEP, _GENERATE = 0, 255


@dataclass(frozen=True)
class Conditioning:
    """The pipeline arguments for a request's references.

    Attributes:
        arguments: Of the pipeline.
        reference_frames: Latent frames that VACE puts in front of the clip's own, one per reference image without a place in the clip.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    reference_frames: int = 0


def supported_modes(pipelines: WanPipelines) -> tuple[ReferenceMode, ...]:
    """Returns the modes that the loaded weights support.

    Of the image-to-video models, the one for first and last frames has positions for two images in its text attention
    (`pos_embed_seq_len`) and needs both; the others have positions for one. Those without an image encoder accept either.
    """
    if pipelines.vace is not None:
        return ("none", "single", "start", "end", "both")
    if pipelines.image_to_video is None:
        return ("none",)
    config = pipelines.image_to_video.transformer.config
    if config.image_dim is None:
        return ("start", "both")
    return ("both",) if config.pos_embed_seq_len is not None else ("start",)


def check(request: WanRequest, pipelines: WanPipelines) -> None:
    """Refuses references that the loaded weights do not support, and missing ones that they require.

    Raises:
        ModelUnavailable: The message lists the supported modes.
    """
    modes = supported_modes(pipelines)
    if request.reference_mode not in modes:
        given = f", given by {' and '.join(f'`{name}`' for name in request.references)}," if request.references else ""
        raise ModelUnavailable(
            f"Reference mode {request.reference_mode!r}{given} is not supported by this worker. Available: {', '.join(modes)}."
        )
    if pipelines.image_to_video is None:
        return
    if request.frames == 1:
        raise ModelUnavailable(
            "`config.frames` must be 2 or more on this worker, whose image-to-video model makes no single images; got 1."
        )
    if request.reference_strength != _DEFAULT_STRENGTH:
        raise ModelUnavailable("`metadata.reference_strength` is not supported by this worker's image-to-video model. Omit it.")


def conditioning(request: WanRequest, references: Mapping[str, Image.Image], pipelines: WanPipelines) -> Conditioning:
    """Prepares a request's references for the loaded pipelines.

    Args:
        request: The request.
        references: RGB images of any size, keyed as in `request.references`.
        pipelines: The loaded pipelines.
    """
    if not references:
        return Conditioning()
    return vace_conditioning(request, references) if pipelines.vace is not None else _image_to_video_conditioning(request, references)


def vace_conditioning(request: WanRequest, references: Mapping[str, Image.Image]) -> Conditioning:
    """Prepares VACE's inputs: a video and a mask of the pixels to generate, or reference images.

    Each reference is cropped to exactly the size of the clip: VACE would accept any size and silently pad it with black. An image has no
    first or last frame that could be kept, so its references are images that it resembles.
    """
    fitted = _fitted(request, references)
    scale = {"conditioning_scale": conditioning_scale(request.reference_strength)}
    if request.reference_mode == "single" or request.frames == 1:
        return Conditioning(scale | {"reference_images": list(fitted.values())}, reference_frames=len(fitted))
    frames, size = padded_frames(request.frames), (request.width, request.height)
    kept = _kept_frames(fitted, request.frames, frames)
    # All equal frames are the same image object: separate ones would take as much memory as the clip.
    grey, keep, generate = Image.new("RGB", size, _GREY), Image.new("L", size, _KEEP), Image.new("L", size, _GENERATE)
    video = [kept.get(index, grey) for index in range(frames)]
    mask = [keep if index in kept else generate for index in range(frames)]
    return Conditioning(scale | {"video": video, "mask": mask})


@contextmanager
def with_last_frame(pipeline: Any, frame: int) -> Iterator[None]:
    """Makes an image-to-video model show the last image from a frame on, while the body runs."""
    pipeline.last_image_from = frame
    try:
        yield
    finally:
        pipeline.last_image_from = None


def conditioning_scale(strength: float) -> float:
    """Maps a reference strength to the weight of VACE's hints, 0.5 … 1.5; 1, the weight in training, for a strength of 0.5.

    Args:
        strength: 0 … 1. Even at 0 a reference has an effect: a job never ignores one.
    """
    return 0.5 + strength


def _image_to_video_conditioning(request: WanRequest, references: Mapping[str, Image.Image]) -> Conditioning:
    arguments = {"config.first_frame": "image", "config.last_frame": "last_image"}
    return Conditioning({arguments[name]: image for name, image in _fitted(request, references).items()})


def _fitted(request: WanRequest, references: Mapping[str, Image.Image]) -> dict[str, Image.Image]:
    return {name: fit(image, request.width, request.height) for name, image in references.items()}


def _kept_frames(fitted: Mapping[str, Image.Image], delivered: int, generated: int) -> dict[int, Image.Image]:
    """The frames that are given. The last image fills all frames from the last delivered one, so that the cut clip ends with it."""
    kept = {}
    if "config.last_frame" in fitted:
        kept = dict.fromkeys(range(delivered - 1, generated), fitted["config.last_frame"])
    if "config.first_frame" in fitted:
        kept[0] = fitted["config.first_frame"]
    return kept
