"""The diffusers pipeline of one job, with the call arguments that the request's features add."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from pydantic import JsonValue
from torch import Tensor

from handlers.sdxl.prompts import TextualInversion
from handlers.sdxl.refiner_pass import RefinerPass
from shared.media.images import Pixels
from shared.weights.addons import AddonLibrary


@dataclass
class JobPipeline:
    """The pipeline to call for a job, and its arguments.

    Attributes:
        pipeline: The pipeline. A feature may replace it by another one over the same networks.
        references: The downloaded images of the request, by field.
        addons: The operator's additional networks.
        generators: One per image, on the CPU, so that an image is the same alone, in a batch and on any GPU.
        arguments: Further arguments of the call, the same for every batch; for text-to-image they include the size.
        image_arguments: Further arguments with one row per image, sliced for each batch.
        refiner: Runs the last steps.
        free_memory: Returns the bytes available for new tensors; None if unknown.
        warn: Receives warnings for the caller.
        metadata: Metadata of the generated images.
        textual_inversions: By the names that stand for them in the prompts.
        after_decode: Applied to each decoded image, if any.
        step_cache: Entered with a UNet while it denoises a batch; makes it reuse features between steps.
        accelerations: Those in effect, by their names in payloads.
    """

    pipeline: Any
    references: Mapping[str, Image.Image]
    addons: AddonLibrary
    generators: list[torch.Generator] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict, repr=False)
    image_arguments: dict[str, Tensor] = field(default_factory=dict, repr=False)
    refiner: RefinerPass | None = None
    free_memory: Callable[[], int | None] = lambda: None
    warn: Callable[[str], None] = lambda text: None
    metadata: dict[str, JsonValue] = field(default_factory=dict)
    textual_inversions: dict[str, TextualInversion] = field(default_factory=dict)
    after_decode: Callable[[Pixels], Pixels] | None = None
    step_cache: Callable[[Any], AbstractContextManager[object]] = nullcontext
    accelerations: list[JsonValue] = field(default_factory=list)
