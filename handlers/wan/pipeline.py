"""The pipeline of one job: which one serves the request, and its configuration, undone when the job ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from handlers.wan.decoding import vae_encode_tiling
from handlers.wan.features.acceleration import accelerated, enabled_accelerations
from handlers.wan.features.reference import with_last_frame
from handlers.wan.features.scheduler import make_scheduler
from handlers.wan.memory import MemoryEstimate
from handlers.wan.offload import TextEncoderOffload, without_text_encoder
from handlers.wan.request import WanRequest
from handlers.wan.weights.load import WanPipelines
from shared.models.compilation import CompiledBlocks
from shared.models.pipelines import with_scheduler


def select_pipeline(pipelines: WanPipelines, request: WanRequest) -> Any:
    """Returns the pipeline that serves a request."""
    return pipelines.image_to_video or (pipelines.vace if request.references else pipelines.text_to_video)


def job_accelerations(pipelines: WanPipelines, request: WanRequest, compiled: Mapping[Any, CompiledBlocks]) -> tuple[str, ...]:
    """Returns the accelerations of a request, by their names in payloads."""
    transformer = select_pipeline(pipelines, request).transformer
    return enabled_accelerations(request.acceleration, transformer.device, compiled.get(transformer))


@contextmanager
def configured(
    pipelines: WanPipelines, request: WanRequest, offload: TextEncoderOffload, compiled: Mapping[Any, CompiledBlocks]
) -> Iterator[Any]:
    """Configures the pipeline that serves a request while the body runs: scheduler, accelerations, tiling, no text encoder.

    Args:
        pipelines: The loaded pipelines.
        request: The request, whose prompts are encoded already.
        offload: Makes room for the job where memory is short.
        compiled: The compiled blocks of transformers.

    Yields:
        The pipeline, to be called with embeddings.
    """
    pipeline, estimate = select_pipeline(pipelines, request), MemoryEstimate.of(request, pipelines.vae)
    offload.ensure_free(estimate.peak(pipeline.transformer, tiled=False))
    transformer, accelerations = pipeline.transformer, job_accelerations(pipelines, request, compiled)
    with ExitStack() as stack:
        stack.enter_context(without_text_encoder(pipeline))
        stack.enter_context(with_scheduler(pipeline, make_scheduler(request.sample_solver, request.sample_shift)))
        stack.enter_context(accelerated(transformer, accelerations, request.steps, compiled.get(transformer)))
        stack.enter_context(vae_encode_tiling(pipelines.vae, offload.free, estimate.encoding(transformer, tiled=False)))
        if pipelines.image_to_video is not None:
            stack.enter_context(with_last_frame(pipeline, request.frames - 1))
        yield pipeline
