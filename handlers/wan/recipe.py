"""Runs a WAN job: encodes the prompts, denoises, decodes; one clip, or an image of one frame."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image
from pydantic import JsonValue
from torch import Tensor

from handlers.wan.decoding import decode_with_fallbacks, reject_single_colour
from handlers.wan.features import lora, reference
from handlers.wan.features.reference import Conditioning
from handlers.wan.memory import DeviceMemory, MemoryEstimate, check_memory
from handlers.wan.metadata import job_metadata, output_metadata
from handlers.wan.offload import TextEncoderOffload
from handlers.wan.pipeline import configured, job_accelerations, select_pipeline
from handlers.wan.previews import MiddleFramePreviewer
from handlers.wan.prompts import PromptEncoder
from handlers.wan.request import WanRequest
from handlers.wan.sizes import padded_frames
from handlers.wan.weights.load import WanPipelines
from shared.jobs.recipe import ImageOutput, JobRun, Output, Summary, VideoOutput
from shared.jobs.streaming.queue import StreamQueue
from shared.media.images import Pixels
from shared.media.videos import DEFAULT_ENCODING, Encoding
from shared.models.compilation import CompiledBlocks
from shared.models.device import describe_device, reset_vram_peak
from shared.models.loras import with_loras
from shared.models.oom import EMPTY_CACHE, run_with_fallbacks
from shared.models.pipelines import call_pipeline
from shared.weights.addons import AddonLibrary


class WanRecipe:
    """Text-to-video and text-to-image, both with optional reference images.

    Args:
        pipelines: The loaded pipelines.
        addons: The operator's LoRAs.
        encoding: How videos are encoded.
        memory_limit: The bytes of device memory that may be used; None: all.
        model_name: The name of the weights in payloads.
        compiled: What `idle_work` compiles, by transformer.
    """

    def __init__(
        self,
        pipelines: WanPipelines,
        addons: AddonLibrary,
        encoding: Encoding = DEFAULT_ENCODING,
        *,
        memory_limit: int | None = None,
        model_name: str = "wan",
        compiled: Mapping[Any, CompiledBlocks] = MappingProxyType({}),
    ) -> None:
        self._pipelines = pipelines
        self._addons = addons
        self._encoding = encoding
        self._model_name = model_name
        self._compiled = compiled
        self._memory = DeviceMemory(pipelines.device, memory_limit)
        self._memory.enforce_limit()
        self._offload = TextEncoderOffload(pipelines, self._memory)
        self._prompts = PromptEncoder(pipelines.all[0], self._offload.load)
        self._previewer = MiddleFramePreviewer(pipelines.vae)

    def idle_work(self) -> Iterator[Callable[[], None]]:
        """Yields pieces of work for the GPU thread while it is idle: each compiles the blocks of one shape."""
        for blocks in self._compiled.values():
            yield from blocks.pieces()

    def check(self, request: WanRequest) -> None:
        """Refuses a request that this worker cannot serve.

        Raises:
            ModelUnavailable: The loaded weights do not support the request's references, or a LoRA is not installed.
            OutOfMemory: The clip cannot fit. The message names clips that would.
        """
        lora.check(request, self._addons)
        reference.check(request, self._pipelines)
        transformer = select_pipeline(self._pipelines, request).transformer
        check_memory(MemoryEstimate.of(request, self._pipelines.vae), transformer, self._memory, self._offload.resident)

    @torch.inference_mode()
    def generate(self, request: WanRequest, references: Mapping[str, Image.Image], run: JobRun) -> Generator[Output]:
        """Generates one clip of exactly the requested number of frames, or one image."""
        reset_vram_peak(self._pipelines.device)
        if request.negative_prompt and request.guidance_scale == 1:
            run.warn("`negative_prompt` has no effect, because `config.guidance_scale` is 1")
        # 1. Prepare the references, for the next longer clip that the VAE supports
        conditioning = reference.conditioning(request, references, self._pipelines)
        # 2. Denoise
        with self._loras(request, run) if request.loras else nullcontext():
            latents = self._denoise(request, conditioning, run)
        # 3. Decode frame by frame: the video is encoded while later frames are decoded
        if request.is_image:
            (pixels,) = self._frames(latents, 1, run)
            yield ImageOutput(pixels, request.seed, "png", self._output_metadata(request))
        else:
            yield from self._stream(request, self._frames(latents, request.frames, run))

    def summarize(self, request: WanRequest, outputs: Sequence[Output]) -> Summary:
        """Reports what was done, for the payload."""
        device = describe_device(self._pipelines.device)
        metadata = job_metadata(request, vace=self._pipelines.vace is not None, model_name=self._model_name, device=device)
        warnings = []
        asked = "acceleration" in request.model_fields_set and request.acceleration != "none"
        if asked and not self._can_accelerate(request):
            warnings.append(f"`config.acceleration` has no effect on this worker's device; got {request.acceleration}")
        return Summary(metadata, warnings=warnings)

    def _output_metadata(self, request: WanRequest) -> dict[str, JsonValue]:
        accelerations = job_accelerations(self._pipelines, request, self._compiled)
        return output_metadata(request, accelerations, vace=self._pipelines.vace is not None)

    def _can_accelerate(self, request: WanRequest) -> bool:
        """Whether the request's acceleration has an effect, at the latest when the transformers are compiled."""
        return bool(self._compiled) or bool(job_accelerations(self._pipelines, request, self._compiled))

    def _denoise(self, request: WanRequest, conditioning: Conditioning, run: JobRun) -> Tensor:
        """1 × channels × latent frames × height/8 × width/8; up to three frames more than requested."""
        embeddings = self._prompts.embed(request.prompt, request.negative_prompt, guided=request.guidance_scale > 1)
        fallbacks = (EMPTY_CACHE, self._offload.fallback())
        return run_with_fallbacks(lambda: self._call_pipeline(request, embeddings, conditioning, run), fallbacks, run.warn)

    def _loras(self, request: WanRequest, run: JobRun) -> AbstractContextManager[Mapping[str, float]]:
        target, transformer = lora.lora_target(self._pipelines), select_pipeline(self._pipelines, request).transformer
        return with_loras(target, request.loras, self._addons, run.warn, partial(lora.is_in, transformer))

    def _call_pipeline(self, request: WanRequest, embeddings: Mapping[str, Tensor], conditioning: Conditioning, run: JobRun) -> Tensor:
        with configured(self._pipelines, request, self._offload, self._compiled) as pipeline:
            latents: Tensor = call_pipeline(
                pipeline,
                run.step,
                self._previewer.skipping(conditioning.reference_frames) if request.preview else None,
                **embeddings,
                **conditioning.arguments,
                width=request.width,
                height=request.height,
                num_frames=padded_frames(request.frames),
                num_inference_steps=request.steps,
                guidance_scale=request.guidance_scale,
                # On the CPU, so that a seed gives the same noise on any GPU.
                generator=torch.Generator("cpu").manual_seed(request.seed),
                output_type="latent",
            ).frames
        return latents[:, :, conditioning.reference_frames :]

    def _frames(self, latents: Tensor, count: int, run: JobRun) -> Iterator[Pixels]:
        """Decodes the first `count` frames."""
        decoding = decode_with_fallbacks(self._pipelines.vae, latents, [self._offload.fallback()], run.warn, free=self._offload.free)
        with closing(decoding):
            for frame in reject_single_colour(islice(decoding, count)):
                run.cancel.check()
                yield frame

    def _stream(self, request: WanRequest, frames: Iterator[Pixels]) -> Iterator[Output]:
        """Yields the video before its frames are decoded, then decodes them into its queue."""
        with StreamQueue[Pixels]() as queue:
            yield VideoOutput(queue, request.fps, request.seed, self._output_metadata(request), self._encoding, request.extras)
            for frame in frames:
                if queue.abandoned:  # encoding or storing the video has failed, and reports that itself
                    return
                queue.put(frame)
