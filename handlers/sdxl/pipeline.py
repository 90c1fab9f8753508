"""The list of SDXL's features, and the context manager that configures the pipeline with those of one request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

import torch
from PIL import Image

from handlers.sdxl.features import (
    acceleration,
    controlnet,
    img2img,
    inpaint,
    ip_adapter,
    lora,
    refiner,
    scheduler,
    textual_inversion,
    vae,
)
from handlers.sdxl.job_pipeline import JobPipeline
from handlers.sdxl.request import SdxlRequest
from shared.weights.addons import AddonLibrary


class Feature(Protocol):
    """A module that implements one feature. It is called only for requests that ask for the feature."""

    def check(self, request: SdxlRequest, addons: AddonLibrary) -> None:
        """Refuses, before any work, a request that this worker cannot serve.

        Raises:
            ModelUnavailable: A network that the request names is not installed.
            ValidationError: The request combines features that exclude each other.
        """

    def apply(self, job: JobPipeline, request: SdxlRequest) -> AbstractContextManager[None]:
        """Configures `job`, or the networks of its pipeline, while the body runs."""


FEATURES: tuple[tuple[Callable[[SdxlRequest], bool], Feature], ...] = (
    (lambda request: request.scheduler is not None, scheduler),
    (lambda request: request.vae is not None, vae),
    (lambda request: bool(request.loras), lora),
    (lambda request: bool(request.textual_inversions), textual_inversion),
    (lambda request: request.reference_method == "img2img", img2img),
    (lambda request: request.reference_method == "inpaint", inpaint),
    (lambda request: bool(request.controls), controlnet),
    (lambda request: request.reference_method == "adapter" or bool(request.adapter_references), ip_adapter),
    (lambda request: request.refiner is not None, refiner),
    (lambda request: request.acceleration not in ("none", "lossless"), acceleration),
)
"""Every feature and whether a request asks for it, in the order of application."""


def requested_features(request: SdxlRequest) -> list[Feature]:
    """Returns the features that a request asks for, in the order of application."""
    return [feature for is_requested, feature in FEATURES if is_requested(request)]


@contextmanager
def configured(
    pipeline: Any,
    request: SdxlRequest,
    references: Mapping[str, Image.Image],
    addons: AddonLibrary,
    free_memory: Callable[[], int | None] = lambda: None,
    warn: Callable[[str], None] = lambda text: None,
) -> Iterator[JobPipeline]:
    """Configures a pipeline for one job, and restores it when the body ends.

    Args:
        pipeline: The text-to-image pipeline.
        request: The job.
        references: The images of `request.references`.
        addons: The operator's additional networks.
        free_memory: Returns the bytes available for new tensors; None if unknown.
        warn: Receives warnings for the caller.

    Raises:
        ModelUnavailable: A network turned out to be unusable. The pipeline is restored.
    """
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in request.seeds]
    size = {"width": request.width, "height": request.height}
    job = JobPipeline(pipeline, references, addons, generators, size, free_memory=free_memory, warn=warn)
    with ExitStack() as stack:
        for feature in requested_features(request):
            stack.enter_context(feature.apply(job, request))
        yield job
