"""Request → pictures."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from handlers.sdxl.decoding import decode
from handlers.sdxl.features.img2img import REFERENCE
from handlers.sdxl.memory import Need, halves, micro_batches
from handlers.sdxl.metadata import use_of_references, warnings
from handlers.sdxl.pipeline import ATTACHMENTS, Stage, staged
from handlers.sdxl.postprocess.postprocessor import Finishing
from handlers.sdxl.previews import look_through
from handlers.sdxl.progress import Steps
from handlers.sdxl.prompts import Embeddings, embed
from handlers.sdxl.request import SdxlRequest
from shared.jobs.recipe import Picture, Product, Run, Summary
from shared.media.images import fit
from shared.models.device import forget_vram_peak, free_vram, vram_used_mb
from shared.models.oom import FREED, Rung, attempt, climb, on_the_cpu
from shared.models.pipelines import call_pipeline
from shared.weights.addons import Shelf


class SdxlRecipe:
    """Text → image, with pictures to start from, to paint over or to resemble; and copies.

    Args:
        pipeline: A loaded `StableDiffusionXLPipeline`.
        shelf: What the operator put beside it.
        without_adapters: Whether every type of reference is served by image → image.
        safety_check: Whether every finished picture is looked at, and flagged where it may not be safe for work.
        free: Says how many bytes of a device's memory new tensors can have; None where nobody knows.
    """

    def __init__(
        self,
        pipeline: Any,
        shelf: Shelf,
        *,
        without_adapters: bool = False,
        safety_check: bool = False,
        free: Callable[[torch.device], int | None] = free_vram,
    ) -> None:
        self._pipeline = pipeline
        self._shelf = shelf
        self._without_adapters = without_adapters
        self._free = partial(free, pipeline.device)
        self._finishing = Finishing(shelf, pipeline.device, pipeline.unet.dtype, always_checks=safety_check)

    def accept(self, request: SdxlRequest) -> None:
        """Refuses what this worker does not have, by name.

        Raises:
            ModelUnavailable: It names the field and what there is.
            ValidationError: The request names things that cannot be done together.
        """
        for attachment in ATTACHMENTS:
            attachment.accept(self._as_served(request), self._shelf)
        self._finishing.accept(request)

    @torch.inference_mode()
    def generate(self, request: SdxlRequest, references: Mapping[str, Image.Image], run: Run) -> Generator[Product]:
        """Makes the request's pictures, one by one."""
        forget_vram_peak(self._pipeline.device)
        with closing(self._pictures(self._as_served(request), references, run)) as making:
            for picture in making:
                pixels, notes = self._finishing.finish(picture.pixels, request, run)
                yield replace(picture, pixels=pixels, metadata={**picture.metadata, **notes})

    def _pictures(self, request: SdxlRequest, references: Mapping[str, Image.Image], run: Run) -> Generator[Picture]:
        method = request.reference_method
        if method == "copy":
            yield from _copies(request, references[REFERENCE])
            return
        # 1. What the request puts on the pipeline, for this job alone
        with staged(self._pipeline, request, references, self._shelf, method, self._free, run.warn) as stage:
            # 2. What to draw
            embeddings = embed(stage.pipeline, request.phrases, request.negative_phrases, request.clip_skip, stage.words)
            # 3. As many pictures together as there is memory for
            most = self._most_at_once(stage.need(request), request.num_images)
            yield from draw(stage, request, embeddings, most, run)

    def _most_at_once(self, need: Need, count: int) -> int:
        """How many pictures there is room for; what is only kept for later jobs makes room first."""
        free = self._free()
        if free is not None and free < need.alone:
            self._shelf.forget()
            free = self._free()
        return need.most_at_once(count, free)

    def summarize(self, request: SdxlRequest, products: Sequence[Product]) -> Summary:
        """Says what was done, for the payload."""
        metadata: dict[str, Any] = {
            "model_used": "sdxl",
            "enhancement_source": "none",
            "compel_enhancement": request.compel_enabled,
            "vram_used": vram_used_mb(self._pipeline.device),
        }
        served = self._as_served(request)
        return Summary(metadata | use_of_references(request, served), warnings=warnings(served))

    def _as_served(self, request: SdxlRequest) -> SdxlRequest:
        """The request as this worker serves it."""
        replaced = self._without_adapters and request.reference_method == "adapter"
        return request.model_copy(update={"reference_mode": "modify"}) if replaced else request


def draw(stage: Stage, request: SdxlRequest, embeddings: Embeddings, most: int, run: Run) -> Iterator[Picture]:
    """Makes a job's pictures, in batches of at most `most`, and hands them over one by one.

    Args:
        stage: The job's, as `staged` made it: the generators of its pictures are used up.
        request: What to make.
        embeddings: Of the prompts.
        most: 1 … the number of pictures. Another one makes the same pictures, but for a rounding in a few values of ten thousand.
        run: Whom to report to.
    """
    batches = deque(micro_batches(request.num_images, most))
    show = look_through(stage.pipeline.vae) if request.preview else None
    steps = Steps(run, len(batches), stage.refine.count if stage.refine else 0, show)
    while batches:
        which = batches.popleft()
        latents = _denoise_or_halve(stage, which, request, embeddings, steps, run)
        if latents is None:
            batches.extendleft(reversed(halves(which)))
            steps.expect(len(batches))
            continue
        # A picture is encoded and uploaded while the next is decoded.
        for seed, latent in zip(request.seeds[which], torch.split(latents, 1), strict=True):
            run.cancel.check()
            pixels = stage.finish(decode(stage.pipeline, latent, run.warn))
            yield Picture(pixels, seed, request.output_format, _describe(request, stage))


def _denoise_or_halve(stage: Stage, which: slice, request: SdxlRequest, embeddings: Embeddings, steps: Steps, run: Run) -> Tensor | None:
    """The latents of a batch, or None where memory did not suffice for so many together: two halves are to be tried then.

    Raises:
        OutOfMemory: It did not suffice for a single picture with every remedy.
    """

    def work() -> Tensor:
        # With generators of its own for each try, because a try uses them up.
        part = stage.part(which)
        part.noise = [generator.clone_state() for generator in part.noise]
        return denoise(part, request, embeddings, steps)

    if which.stop - which.start == 1:
        encoders = [stage.pipeline.text_encoder, stage.pipeline.text_encoder_2]
        aside = Rung("the text encoders were moved out of the GPU's memory meanwhile", lambda: on_the_cpu(encoders))
        return climb(work, (FREED, aside), run.warn)
    done, latents = attempt(work)
    if not done:
        run.warn("Memory did not suffice for so many pictures together; fewer were made at once.")
    return latents


def denoise(stage: Stage, request: SdxlRequest, embeddings: Embeddings, steps: Steps) -> Tensor:
    """Makes one batch, however small, of a job's pictures.

    Args:
        stage: The batch's part of the job's stage. Each picture has a generator of its own, which this call uses up.
        request: What to make.
        embeddings: Of the prompts.
        steps: Whom to report to.

    Returns:
        Pictures × channels × height/8 × width/8.

    Raises:
        Cancelled: The job was stopped.
        JobTimeout: Its deadline has passed.
    """
    latents: Tensor = call_pipeline(
        stage.pipeline,
        steps.base,
        steps.look,
        **embeddings.arguments(),
        **stage.arguments,
        **stage.each,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        guidance_rescale=request.guidance_rescale,
        num_images_per_prompt=len(stage.noise),
        generator=stage.noise,
        output_type="latent",
    ).images
    if stage.refine is not None:
        latents = stage.refine(latents, embeddings, stage.noise, request, steps)
    steps.end_batch()
    return latents


def _copies(request: SdxlRequest, reference: Image.Image) -> Iterator[Picture]:
    """The reference as it is, cropped in the middle to the picture's size: nothing is painted over, so nothing is computed."""
    pixels = np.asarray(fit(reference, request.width, request.height))
    done = {"batch_size": request.num_images, "steps": 0, "num_inference_steps": 0, "guidance_scale": 1.0, "denoise_strength": 0.0}
    for seed in request.seeds:
        yield Picture(pixels, seed, request.output_format, done)


def _describe(request: SdxlRequest, stage: Stage) -> dict[str, Any]:
    steps = int(stage.pipeline.scheduler.num_inference_steps)
    done = {"batch_size": request.num_images, "steps": steps, "num_inference_steps": steps, "guidance_scale": request.guidance_scale}
    return done | stage.notes
