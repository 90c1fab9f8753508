"""Offloads the text encoder, the largest network, which is idle once the prompts are encoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from handlers.wan.memory import DeviceMemory
from handlers.wan.weights.load import WanPipelines
from shared.models.device import memory_footprint
from shared.models.oom import Fallback
from shared.telemetry import logger


class TextEncoderOffload:
    """Moves the text encoder to the CPU when its memory is needed, and back when a prompt is to be encoded.

    Where everything fits, and on a CPU without a limit, it never moves.

    Args:
        pipelines: The loaded pipelines.
        memory: The device's memory.
    """

    def __init__(self, pipelines: WanPipelines, memory: DeviceMemory) -> None:
        self._encoder: Any = pipelines.all[0].text_encoder
        self._encoder_size = memory_footprint(self._encoder)
        image_encoders = (getattr(pipeline, "image_encoder", None) for pipeline in pipelines.all)
        self.memory = memory
        self.resident = memory_footprint(pipelines.vae, *(pipeline.transformer for pipeline in pipelines.all), *image_encoders)
        """Bytes of the networks that stay on the device."""
        self.is_offloaded = False

    @property
    def free(self) -> int | None:
        """The bytes available for new tensors; None if unlimited."""
        return self.memory.free(self.resident + (0 if self.is_offloaded else self._encoder_size))

    def load(self) -> None:
        """Moves the text encoder to the device."""
        if self.is_offloaded:
            self._encoder.to(self.memory.device)
            self.is_offloaded = False

    def offload(self) -> None:
        """Moves the text encoder to the CPU."""
        if self.is_offloaded:
            return
        self._encoder.to("cpu")
        self.is_offloaded = True
        if self.memory.device.type == "cuda":
            torch.cuda.empty_cache()

    def ensure_free(self, needed: int) -> None:
        """Offloads the text encoder if fewer than `needed` bytes are free."""
        free = self.free
        if not self.is_offloaded and free is not None and free < needed:
            self.offload()
            logger().info("text encoder offloaded", needed=needed, free=free)

    def fallback(self) -> Fallback:
        """Returns a fallback for when less memory is free than estimated. The text encoder stays offloaded until it is needed."""
        return Fallback("the text encoder was offloaded to the CPU", self._apply)

    def _apply(self) -> AbstractContextManager[None]:
        self.offload()
        return nullcontext()


@contextmanager
def without_text_encoder(pipeline: Any) -> Iterator[None]:
    """Detaches the text encoder from a pipeline that is called with embeddings: the pipeline would compute on the encoder's device."""
    encoder = pipeline.text_encoder
    pipeline.text_encoder = None
    try:
        yield
    finally:
        pipeline.text_encoder = encoder
