"""Request → a clip, or a picture of one frame."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from handlers.wan.decoding import coded_in, decode_within_memory, not_of_one_colour
from handlers.wan.features.acceleration import accelerated, ways_of
from handlers.wan.features.lora import target
from handlers.wan.features.reference import Conditions, conditioning_scale, conditions, ending_at, image_conditions
from handlers.wan.features.reference_modes import check_references
from handlers.wan.features.scheduler import make_solver
from handlers.wan.memory import Work, check_memory, work_of
from handlers.wan.offload import Residence, without_encoder
from handlers.wan.previews import Looks
from handlers.wan.prompts import Prompts
from handlers.wan.request import WanRequest
from handlers.wan.weights.load import WanPipelines
from shared.jobs.recipe import Clip, Picture, Product, Run, Summary
from shared.jobs.streaming.queue import StreamQueue
from shared.media.images import Pixels
from shared.media.videos import STANDARD, Encoding
from shared.models.device import Memory, forget_vram_peak, vram_used_mb
from shared.models.loras import with_loras
from shared.models.oom import FREED, Rung, climb
from shared.models.pipelines import call_pipeline, scheduled_by
from shared.weights.addons import Shelf


class WanRecipe:
    """Text → video, text → image, and both with pictures to go by.

    Args:
        pipelines: WAN, loaded.
        shelf: What the operator put beside it.
        encoding: How clips are written.
        memory_limit: Bytes of the device's memory that may be used; None: all.
    """

    def __init__(self, pipelines: WanPipelines, shelf: Shelf, encoding: Encoding = STANDARD, *, memory_limit: int | None = None) -> None:
        self._pipelines = pipelines
        self._shelf = shelf
        self._encoding = encoding
        self._memory = Memory(pipelines.device, memory_limit)
        self._memory.keep_to_limit()
        self._residence = Residence(pipelines, self._memory)
        self._prompts = Prompts(pipelines.all[0], self._residence.bring)
        self._looks = Looks(pipelines.vae)

    def accept(self, request: WanRequest) -> None:
        """Refuses what this worker does not have.

        Raises:
            ModelUnavailable: This worker's WAN cannot go by the request's references; or a LoRA is not here.
            OutOfMemory: The clip cannot fit. It names what would.
        """
        for lora in request.loras:
            self._shelf.find("loras", lora.name)
        check_references(request, self._pipelines)
        check_memory(self._work(request), self._choose(request).transformer, self._memory, self._residence.others)

    @torch.inference_mode()
    def generate(self, request: WanRequest, references: Mapping[str, Image.Image], run: Run) -> Generator[Product]:
        """Makes one clip of exactly the frames that were asked for, or one picture."""
        forget_vram_peak(self._device)
        # 1. What it goes by, at the next length that the VAE can have
        given = self._conditions(request, references)
        # 2. Denoise
        with with_loras(target(self._pipelines), request.loras, self._shelf) if request.loras else nullcontext():
            latents = self._denoise(request, given, run)
        # 3. Decode, and hand over frame by frame: they are encoded as a film while the next are decoded
        if request.is_image:
            (pixels,) = self._frames(latents, 1, run)
            yield Picture(pixels, request.seed, "png", self._describe(request))
        else:
            yield from self._film(request, self._frames(latents, request.frames, run))

    def summarize(self, request: WanRequest, products: Sequence[Product]) -> Summary:
        """Says what was done, for the payload."""
        metadata: dict[str, Any] = {
            "model_used": "wan",
            "enhancement_source": "none",
            "auto_enhancement": False,
            "compel_enhancement": False,
            "reference_mode": request.reference_mode,
            "exact_copy_mode": False,
            "vram_used": vram_used_mb(self._device),
        }
        if request.references:
            method = "vace" if self._pipelines.vace is not None else "image_to_video"
            metadata |= {"reference_method": method, "reference_strength": request.reference_strength}
        warnings = []
        if request.acceleration != "none" and not self._ways(request):
            warnings.append(f"config.acceleration: {request.acceleration} does nothing on this worker's device")
        return Summary(metadata, warnings=warnings)

    @property
    def _device(self) -> torch.device:
        return self._pipelines.device

    def _conditions(self, request: WanRequest, references: Mapping[str, Image.Image]) -> Conditions:
        if not references:
            return Conditions({}, leading=0)
        if self._pipelines.pictures is not None:
            return image_conditions(request, references)
        return conditions(request, references, made_frames(request.frames))

    def _choose(self, request: WanRequest) -> Any:
        """The pipeline that serves a request."""
        return self._pipelines.pictures or (self._pipelines.vace if request.references else self._pipelines.text)

    def _ways(self, request: WanRequest) -> tuple[str, ...]:
        """How a request is accelerated."""
        transformer = self._choose(request).transformer
        room = self._memory.total
        taken = self._residence.others + self._work(request).most(transformer, tiled=False)
        return ways_of(request.acceleration, transformer, None if room is None else room - taken)

    def _work(self, request: WanRequest) -> Work:
        return work_of(request, made_frames(request.frames))

    @contextmanager
    def _pipeline(self, request: WanRequest) -> Iterator[Any]:
        """The pipeline that serves a request, with everything on it that the request needs, and without the text encoder."""
        pipeline, work = self._choose(request), self._work(request)
        self._residence.make_room(work.most(pipeline.transformer, tiled=False))
        with ExitStack() as stack:
            stack.enter_context(without_encoder(pipeline))
            stack.enter_context(scheduled_by(pipeline, make_solver(request.sample_solver, request.sample_shift)))
            stack.enter_context(accelerated(pipeline.transformer, self._ways(request)))
            stack.enter_context(coded_in(self._pipelines.vae, self._residence.free, work.encoding(tiled=False)))
            if self._pipelines.pictures is not None:
                stack.enter_context(ending_at(pipeline, request.frames - 1))
            yield pipeline

    def _denoise(self, request: WanRequest, given: Conditions, run: Run) -> Tensor:
        """1 × channels × latent frames × height/8 × width/8; up to three frames more than were asked for."""
        embeddings = self._prompts.embed(request.prompt, request.negative_prompt, guided=request.guidance_scale > 1)
        return climb(lambda: self._try_to_denoise(request, embeddings, given, run), (FREED, self._encoder_away()), run.warn)

    def _try_to_denoise(self, request: WanRequest, embeddings: Mapping[str, Tensor], given: Conditions, run: Run) -> Tensor:
        with self._pipeline(request) as pipeline:
            latents: Tensor = call_pipeline(
                pipeline,
                run.step,
                self._looks.of(given.leading) if request.preview else None,
                **embeddings,
                **given.arguments,
                width=request.width,
                height=request.height,
                num_frames=made_frames(request.frames),
                num_inference_steps=request.steps,
                guidance_scale=request.guidance_scale,
                # On the CPU, so that the seed means the same on any GPU.
                generator=torch.Generator("cpu").manual_seed(request.seed),
                output_type="latent",
            ).frames
        return latents[:, :, given.leading :]

    def _frames(self, latents: Tensor, count: int, run: Run) -> Iterator[Pixels]:
        """The first `count` frames."""
        decoding = decode_within_memory(self._pipelines.vae, latents, [self._encoder_away()], run.warn, free=self._residence.free)
        with closing(decoding):
            for frame in not_of_one_colour(islice(decoding, count)):
                run.cancel.check()
                yield frame

    def _encoder_away(self) -> Rung:
        """The text encoder is the largest network. The transformer stays: its two views would come back as two."""
        return Rung("the text encoder was moved off the device", self._residence.send_away)

    def _film(self, request: WanRequest, frames: Iterator[Pixels]) -> Iterator[Product]:
        queue: StreamQueue[Pixels] = StreamQueue()
        with queue:
            yield Clip(queue, request.fps, request.seed, self._describe(request), self._encoding, request.extras)
            for frame in frames:
                if queue.abandoned:  # storage has refused, or the clip could not be written, and says so itself
                    return
                queue.put(frame)

    def _describe(self, request: WanRequest) -> dict[str, Any]:
        done: dict[str, Any] = {
            "batch_size": 1,
            "steps": request.steps,
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance_scale,
            "sample_solver": request.sample_solver,
            "sample_shift": request.sample_shift,
            "acceleration": request.acceleration,
        }
        if request.acceleration != "none":
            done["accelerated_by"] = list(self._ways(request))
        if request.loras:
            done["loras"] = [{"name": lora.name, "scale": lora.scale} for lora in request.loras]
        if request.references and self._pipelines.vace is not None:
            done["conditioning_scale"] = conditioning_scale(request.reference_strength)
        return done


def made_frames(frames: int) -> int:
    """The next length of the form 4n + 1: WAN's VAE makes the first frame alone and then four at a time. diffusers would round down."""
    return frames + (1 - frames) % 4
