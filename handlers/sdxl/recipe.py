"""The SDXL recipe: text-to-image, img2img, inpainting, IP-Adapter references and exact copies."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from handlers.sdxl.compilation import compiled
from handlers.sdxl.decoding import decode
from handlers.sdxl.features.img2img import REFERENCE_FIELD
from handlers.sdxl.features.scheduler import check_schedule
from handlers.sdxl.job_pipeline import JobPipeline
from handlers.sdxl.memory import MemoryEstimate, micro_batches, split_batch
from handlers.sdxl.metadata import NO_REFERENCES, reference_metadata, reference_warnings
from handlers.sdxl.pipeline import configured, requested_features
from handlers.sdxl.postprocess.postprocessor import PostProcessor
from handlers.sdxl.previews import IntervalPreviewer, PreviewerCache
from handlers.sdxl.progress import ProgressCounter
from handlers.sdxl.prompts import PromptEmbeddings, embedding_cache, encode_prompts, prompt_warnings
from handlers.sdxl.request import SdxlRequest
from shared.jobs.recipe import ImageOutput, JobRun, Output, Summary
from shared.media.images import fit
from shared.models.compilation import CompiledBlocks
from shared.models.device import describe_device, free_vram, reset_vram_peak
from shared.models.oom import EMPTY_CACHE, Fallback, offloaded, run_once, run_with_fallbacks
from shared.models.pipelines import call_pipeline
from shared.models.pixels import check_latents
from shared.weights.addons import AddonLibrary


class SdxlRecipe:
    """Generates images with one loaded SDXL pipeline.

    Args:
        pipeline: A loaded `StableDiffusionXLPipeline`.
        addons: The operator's additional networks.
        img2img_only: Whether img2img serves references of every type, instead of IP-Adapters.
        safety_check: Whether every image is classified as safe for work or not.
        free_memory: Returns the bytes that new tensors can have on a device; None if unknown.
        compiled_networks: Those that `idle_work` compiles.
    """

    def __init__(
        self,
        pipeline: Any,
        addons: AddonLibrary,
        *,
        img2img_only: bool = False,
        safety_check: bool = False,
        model_name: str = "sdxl",
        free_memory: Callable[[torch.device], int | None] = free_vram,
        compiled_networks: Sequence[CompiledBlocks] = (),
    ) -> None:
        self._pipeline = pipeline
        self._addons = addons
        self._img2img_only = img2img_only
        self._free_memory = partial(free_memory, pipeline.device)
        self._embeddings = embedding_cache()
        self._previewers = PreviewerCache()
        self._safety_check = safety_check
        self._model_name = model_name
        self._compiled = compiled_networks
        self._postprocessor = PostProcessor(addons, pipeline.device, pipeline.unet.dtype, always_checks_safety=safety_check)

    def idle_work(self) -> Iterator[Callable[[], None]]:
        """Yields pieces of work for the GPU thread while it is idle: each compiles the blocks of one shape."""
        for network in self._compiled:
            yield from network.pieces()

    def check(self, request: SdxlRequest) -> None:
        """Refuses a request that this worker cannot serve.

        Raises:
            ModelUnavailable: Names what is not installed, and the alternatives.
            ValidationError: The request combines features that exclude each other.
        """
        effective = self._effective(request)
        for feature in requested_features(effective):
            feature.check(effective, self._addons)
        if effective.scheduler is not None:
            check_schedule(effective.scheduler, self._pipeline.scheduler.config)
        if self._is_postprocessed(request):
            self._postprocessor.check(request)

    @torch.inference_mode()
    def generate(self, request: SdxlRequest, references: Mapping[str, Image.Image], run: JobRun) -> Generator[Output]:
        """Yields the request's images one by one."""
        reset_vram_peak(self._pipeline.device)
        with closing(self._generate(self._effective(request), references, run)) as images:
            for image in images:
                yield self._postprocess(image, request, run) if self._is_postprocessed(request) else image

    def _generate(self, request: SdxlRequest, references: Mapping[str, Image.Image], run: JobRun) -> Generator[ImageOutput]:
        if request.reference_method == "copy":
            yield from _copy_reference(request, references[REFERENCE_FIELD])
            return
        weights = self._text_weights(request)  # before they are loaded: should a file change in between, its new content is not mistaken
        # 1. Configure the pipeline for this job
        with (
            configured(self._pipeline, request, references, self._addons, self._free_memory, run.warn) as job,
            compiled(job, self._compiled) if self._compiled and request.acceleration != "none" else nullcontext(),
        ):
            # 2. Encode the prompts
            for warning in prompt_warnings(request):
                run.warn(warning)
            prompt, negative_prompt = request.weighted_prompt, request.weighted_negative_prompt
            embeddings = encode_prompts(
                job.pipeline, prompt, negative_prompt, request.clip_skip, job.textual_inversions, self._embeddings, weights
            )
            # 3. Denoise and decode, in batches as large as memory allows
            batch_size = self._batch_size(MemoryEstimate.of(request, job.pipeline), request.num_images)
            previewer = IntervalPreviewer(self._previewers.get(job.pipeline.vae)) if request.preview else None
            yield from generate_images(job, request, embeddings, batch_size, run, previewer)

    def _text_weights(self, request: SdxlRequest) -> Hashable:
        """Tells apart what a prompt is encoded with: the files that the request names, in their current versions, and the scales."""
        loras = tuple((self._addons.version("loras", lora.name), lora.scale) for lora in request.loras)
        return loras, tuple(self._addons.version("textual_inversions", name) for name in request.textual_inversions)

    def _batch_size(self, estimate: MemoryEstimate, count: int) -> int:
        """Returns how many images fit in memory together. Cached add-ons are dropped before a single image would not fit."""
        free = self._free_memory()
        if free is not None and free < estimate.single_image:
            self._addons.clear_cache()
            free = self._free_memory()
        return estimate.batch_size(count, free)

    def summarize(self, request: SdxlRequest, outputs: Sequence[Output]) -> Summary:
        """Returns the metadata and warnings of the payload."""
        metadata: dict[str, Any] = {
            "model_used": self._model_name,
            "enhancement_source": "none",
            "compel_enhancement": request.compel_enabled,
            **describe_device(self._pipeline.device),
        }
        warnings = []
        if "acceleration" in request.model_fields_set and request.acceleration == "lossless" and not self._compiled:
            warnings.append("`config.acceleration` has no effect on this worker's device; got lossless")
        if request.reference is None and not request.adapter_references:
            return Summary(metadata | dict(NO_REFERENCES), warnings=warnings)
        effective = self._effective(request)
        return Summary(metadata | reference_metadata(request, effective), warnings=[*warnings, *reference_warnings(effective)])

    def _is_postprocessed(self, request: SdxlRequest) -> bool:
        return self._safety_check or request.safety_check or request.upscale is not None or request.enhance is not None

    def _postprocess(self, image: ImageOutput, request: SdxlRequest, run: JobRun) -> ImageOutput:
        pixels, metadata = self._postprocessor.process(image.pixels, request, run)
        return replace(image, pixels=pixels, metadata={**image.metadata, **metadata})

    def _effective(self, request: SdxlRequest) -> SdxlRequest:
        """Returns the request as this worker serves it."""
        if self._img2img_only and request.reference_method == "adapter":
            return request.model_copy(update={"reference_mode": "modify"})
        return request


def generate_images(
    job: JobPipeline,
    request: SdxlRequest,
    embeddings: PromptEmbeddings,
    batch_size: int,
    run: JobRun,
    previewer: IntervalPreviewer | None = None,
) -> Iterator[ImageOutput]:
    """Denoises a job's images in batches, and yields each as soon as it is decoded.

    Args:
        job: The configured pipeline.
        request: The job.
        embeddings: The prompt embeddings.
        batch_size: 1 … the number of images. It does not affect the images, except that a few values in ten thousand round differently.
        run: Receives progress and warnings.
        previewer: Renders the first image of a batch after some steps.
    """
    batches = deque(micro_batches(request.num_images, batch_size))
    progress = ProgressCounter(run, len(batches), job.refiner.steps if job.refiner else 0, previewer)
    while batches:
        images = batches.popleft()
        latents = _denoise_or_split(job, images, request, embeddings, progress, run)
        if latents is None:
            batches.extendleft(reversed(split_batch(images)))
            progress.set_remaining(len(batches))
            continue
        check_latents(latents)
        # An image is encoded and uploaded while the next one is decoded.
        for seed, latent in zip(request.seeds[images], torch.split(latents, 1), strict=True):
            run.cancel.check()
            pixels = decode(job.pipeline, latent, run.warn)
            if job.after_decode is not None:
                pixels = job.after_decode(pixels)
            yield ImageOutput(pixels, seed, request.output_format, _image_metadata(request, job))


def _denoise_or_split(
    job: JobPipeline, images: slice, request: SdxlRequest, embeddings: PromptEmbeddings, progress: ProgressCounter, run: JobRun
) -> Tensor | None:
    """Returns a batch's latents, or None if the batch does not fit in memory and must be split.

    Raises:
        OutOfMemory: A single image does not fit with every fallback.
    """

    def work() -> Tensor:
        return denoise(_batch(job, images), request, embeddings, progress)

    if images.stop - images.start == 1:
        encoders = [job.pipeline.text_encoder, job.pipeline.text_encoder_2]
        offload = Fallback("the text encoders were offloaded while the image was denoised", lambda: offloaded(encoders))
        return run_with_fallbacks(work, (EMPTY_CACHE, offload), run.warn)
    succeeded, latents = run_once(work)
    if not succeeded:
        run.warn("Out of memory; the batch was split.")
    return latents


def _batch(job: JobPipeline, images: slice) -> JobPipeline:
    """Returns the configuration for some of the images. The generators are copies, because a failed attempt has advanced its own."""
    generators = [generator.clone_state() for generator in job.generators[images]]
    return replace(job, generators=generators, image_arguments={name: rows[images] for name, rows in job.image_arguments.items()})


def denoise(batch: JobPipeline, request: SdxlRequest, embeddings: PromptEmbeddings, progress: ProgressCounter) -> Tensor:
    """Denoises one batch of a job's images.

    Args:
        batch: The configured pipeline with the batch's generators, which this call advances.
        request: The job.
        embeddings: The prompt embeddings.
        progress: Receives the steps.

    Returns:
        Images × channels × height/8 × width/8.

    Raises:
        Cancelled: The job was stopped.
        JobTimeout: Its deadline has passed.
    """
    with batch.step_cache(batch.pipeline.unet):
        latents: Tensor = call_pipeline(
            batch.pipeline,
            progress.base_step,
            progress.preview,
            **embeddings.arguments(),
            **batch.arguments,
            **batch.image_arguments,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            guidance_rescale=request.guidance_rescale,
            num_images_per_prompt=len(batch.generators),
            generator=batch.generators,
            output_type="latent",
        ).images
    if batch.refiner is not None:
        with batch.step_cache(batch.refiner.pipeline.unet):
            latents = batch.refiner.run(latents, embeddings, batch.generators, request, progress)
    progress.finish_batch()
    return latents


def _copy_reference(request: SdxlRequest, reference: Image.Image) -> Iterator[ImageOutput]:
    """Yields the reference itself, centre-cropped to the image's size."""
    pixels = np.asarray(fit(reference, request.width, request.height))
    metadata = {"batch_size": request.num_images, "steps": 0, "num_inference_steps": 0, "guidance_scale": 1.0, "denoise_strength": 0.0}
    for seed in request.seeds:
        yield ImageOutput(pixels, seed, request.output_format, metadata)


def _image_metadata(request: SdxlRequest, job: JobPipeline) -> dict[str, Any]:
    steps = int(job.pipeline.scheduler.num_inference_steps)
    metadata: dict[str, Any] = {
        "batch_size": request.num_images,
        "steps": steps,
        "num_inference_steps": steps,
        "guidance_scale": request.guidance_scale,
        "acceleration": request.acceleration,
    }
    if request.acceleration != "none":
        metadata["accelerated_by"] = list(job.accelerations)
    return metadata | job.metadata
