"""Which references a worker's WAN can go by, as its configuration says."""

from __future__ import annotations

from handlers.wan.clip_references import ReferenceMode
from handlers.wan.request import WanRequest
from handlers.wan.weights.load import WanPipelines
from shared.errors import ModelUnavailable

_NEUTRAL = 0.5  # the strength of who names none


def modes_of(pipelines: WanPipelines) -> tuple[ReferenceMode, ...]:
    """The modes that there are weights for.

    Of the models that begin with a picture, the one for first and last frames has places for two pictures in what its text attention sees
    (`pos_embed_seq_len`), and needs both; the others have a place for one. Those that see no picture besides the coded frames take either.
    """
    if pipelines.vace is not None:
        return ("none", "single", "start", "end", "both")
    if pipelines.pictures is None:
        return ("none",)
    config = pipelines.pictures.transformer.config
    if config.image_dim is None:
        return ("start", "both")
    return ("both",) if config.pos_embed_seq_len is not None else ("start",)


def check_references(request: WanRequest, pipelines: WanPipelines) -> None:
    """Refuses references that this worker's WAN cannot go by, and their absence where it cannot do without.

    Raises:
        ModelUnavailable: It says which modes there are.
    """
    modes = modes_of(pipelines)
    if request.reference_mode not in modes:
        named = f" ({', '.join(request.references)})" if request.references else ""
        raise ModelUnavailable(
            f"config.reference_mode: this worker has no models for {request.reference_mode!r}{named}, but for {' and '.join(modes)}. "
            "Send other references, or ask the operator for other weights."
        )
    if pipelines.pictures is None:
        return
    if request.frames == 1:
        raise ModelUnavailable("config.frames: this worker's WAN goes on from a picture and makes clips only. Ask for 2 frames or more.")
    if request.reference_strength != _NEUTRAL:
        raise ModelUnavailable(
            "metadata.reference_strength: this worker's WAN keeps the frames that it is given as they are. Leave the strength out."
        )
