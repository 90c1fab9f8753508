"""Where the text encoder is: the largest network, and of no use once the prompts are encoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from handlers.wan.weights.load import WanPipelines
from shared.models.device import Memory, size_of
from shared.telemetry import logger


class Residence:
    """Moves the text encoder off the device where memory is short, and back when a prompt is to be encoded.

    Where everything fits it never moves, and on a CPU without a limit neither.

    Args:
        pipelines: WAN, loaded.
        memory: What there is.
    """

    def __init__(self, pipelines: WanPipelines, memory: Memory) -> None:
        self._encoder: Any = pipelines.all[0].text_encoder
        self._memory = memory
        self._encoder_size = size_of(self._encoder)
        seeing = (getattr(pipeline, "image_encoder", None) for pipeline in pipelines.all)
        self.others = size_of(pipelines.vae, *(pipeline.transformer for pipeline in pipelines.all), *seeing)
        """Bytes of the networks that stay."""
        self.away = False
        """Whether the text encoder is off the device."""

    @property
    def free(self) -> int | None:
        """Bytes that there are for work; None where there is no end."""
        return self._memory.free(self.others + (0 if self.away else self._encoder_size))

    def bring(self) -> None:
        """Has the text encoder on the device."""
        if self.away:
            self._encoder.to(self._memory.device)
            self.away = False

    def make_room(self, needed: int) -> None:
        """Has the text encoder off the device if there is not so much free beside it.

        Args:
            needed: Bytes.
        """
        free = self.free
        if not self.away and free is not None and free < needed:
            self._leave()
            logger().info("text encoder moved off the device", needed=needed, free=free)

    def send_away(self) -> AbstractContextManager[None]:
        """Has the text encoder off the device, whatever is free: a remedy where what was counted on is not there."""
        if not self.away:
            self._leave()
        return nullcontext()

    def _leave(self) -> None:
        self._encoder.to("cpu")
        self.away = True
        if self._memory.device.type == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def without_encoder(pipeline: Any) -> Iterator[None]:
    """Takes the text encoder from a pipeline that gets embeddings: it would take the encoder's device for its own."""
    encoder = pipeline.text_encoder
    pipeline.text_encoder = None
    try:
        yield
    finally:
        pipeline.text_encoder = encoder
