"""The pipeline as one job has it: with what its request puts on it, which comes off again however the job ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from PIL import Image
from pydantic import JsonValue
from torch import Tensor

from handlers.sdxl.features import controlnet as controls
from handlers.sdxl.features import img2img as image_to_image
from handlers.sdxl.features import inpaint as inpainting
from handlers.sdxl.features import ip_adapter as adapters
from handlers.sdxl.features import lora as loras
from handlers.sdxl.features import refiner
from handlers.sdxl.features import scheduler as schedulers
from handlers.sdxl.features import textual_inversion as textual_inversions
from handlers.sdxl.features import vae as vaes
from handlers.sdxl.features.refiner import Refinement
from handlers.sdxl.features.textual_inversion import Inversion
from handlers.sdxl.memory import Need
from handlers.sdxl.request import Method, SdxlRequest
from shared.media.images import Pixels
from shared.models.device import size_of
from shared.weights.addons import Shelf


@dataclass
class Stage:
    """What is called for a job, and how.

    Attributes:
        pipeline: The pipeline to call. An attachment may replace it by another one over the same networks.
        noise: Where each picture starts: a generator of its own on the CPU, so that it is the same picture alone, in a batch, on any GPU.
        method: What the reference is for.
        arguments: More arguments for the call, the same for every batch: text → image has the size.
        each: Arguments with a row for each picture, of which a batch has its own.
        refine: What makes the last steps.
        free: Bytes of memory that new tensors can have; None where nobody knows.
        warn: Is told what had to be done to make it.
        notes: What was done, for the metadata of the job's pictures.
        words: What names in the prompts stand for.
        afterwards: What is done to each picture when it is decoded, in this order.
    """

    pipeline: Any
    noise: list[torch.Generator] = field(default_factory=list)
    method: Method = "none"
    arguments: dict[str, Any] = field(default_factory=dict, repr=False)
    each: dict[str, Tensor] = field(default_factory=dict, repr=False)
    refine: Refinement | None = None
    free: Callable[[], int | None] = lambda: None
    warn: Callable[[str], None] = lambda text: None
    notes: dict[str, JsonValue] = field(default_factory=dict)
    words: dict[str, Inversion] = field(default_factory=dict)
    afterwards: list[Callable[[Pixels], Pixels]] = field(default_factory=list)

    def finish(self, pixels: Pixels) -> Pixels:
        """Does to a decoded picture what is to be done."""
        for change in self.afterwards:
            pixels = change(pixels)
        return pixels

    def part(self, which: slice) -> Stage:
        """The same for some of the pictures."""
        return replace(self, noise=self.noise[which], each={name: rows[which] for name, rows in self.each.items()})

    def need(self, request: SdxlRequest) -> Need:
        """What the job's pictures take beside the weights."""
        pipeline = self.pipeline
        return Need(
            request.width,
            request.height,
            guided=request.guidance_scale > 1,
            controlled=bool(request.controls),
            refined=request.refiner is not None,
            unet_bytes=pipeline.unet.dtype.itemsize,
            vae_bytes=pipeline.vae.dtype.itemsize,
            encoders=size_of(pipeline.text_encoder, pipeline.text_encoder_2),
            unet=size_of(pipeline.unet),
        )


class Attachment(Protocol):
    """A module with one of the things that a request may put on the pipeline. Each does nothing for a request that does not ask for it."""

    def accept(self, request: SdxlRequest, shelf: Shelf) -> None:
        """Refuses, before any work, what is not on this worker.

        Raises:
            ModelUnavailable: It names the field and what there is.
        """

    def attached(
        self, stage: Stage, request: SdxlRequest, references: Mapping[str, Image.Image], shelf: Shelf
    ) -> AbstractContextManager[None]:
        """Puts it on while the body runs: changes `stage`, or the networks of its pipeline."""


ATTACHMENTS: tuple[Attachment, ...] = (
    schedulers,
    vaes,
    loras,
    textual_inversions,
    image_to_image,
    inpainting,
    controls,
    adapters,
    refiner,
)
"""In the order in which they are put on."""


@contextmanager
def staged(
    pipeline: Any,
    request: SdxlRequest,
    references: Mapping[str, Image.Image],
    shelf: Shelf,
    method: Method = "none",
    free: Callable[[], int | None] = lambda: None,
    warn: Callable[[str], None] = lambda text: None,
) -> Iterator[Stage]:
    """Puts on a pipeline what a request asks for, while the body runs.

    Args:
        pipeline: Text → image.
        request: What to make.
        references: The pictures of `request.references`.
        shelf: What the operator put beside the model.
        method: What the reference is for.
        free: Says how many bytes of memory new tensors can have.
        warn: Is told what had to be done.

    Raises:
        ModelUnavailable: Something cannot be used after all. The pipeline is then as it was.
    """
    noise = [torch.Generator("cpu").manual_seed(seed) for seed in request.seeds]
    stage = Stage(pipeline, noise, method, {"width": request.width, "height": request.height}, free=free, warn=warn)
    with ExitStack() as stack:
        for attachment in ATTACHMENTS:
            stack.enter_context(attachment.attached(stage, request, references, shelf))
        yield stage
