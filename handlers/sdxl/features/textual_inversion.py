"""Textual inversions: names in prompts that stand for embeddings. Tokenizers and embedding tables are not modified."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load

from handlers.sdxl.job_pipeline import JobPipeline
from handlers.sdxl.prompts import TextualInversion
from handlers.sdxl.request import SdxlRequest
from shared.weights.addons import AddonLibrary
from shared.weights.errors import WeightsError

# The tensor names of SDXL's first trainers, used by all since, and the text encoders that they belong to.
_TEXT_ENCODERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
_MAX_BYTES = 64 * 2**20  # thousands of embeddings


def check(request: SdxlRequest, addons: AddonLibrary) -> None:
    """Refuses textual inversions that are not installed.

    Raises:
        ModelUnavailable: Names the field and the alternatives.
    """
    for name in request.textual_inversions:
        addons.find("textual_inversions", name)


@contextmanager
def apply(job: JobPipeline, request: SdxlRequest) -> Iterator[None]:
    """Loads the embeddings that the prompts refer to.

    Raises:
        ModelUnavailable: A textual inversion is unusable.
    """
    names = tuple(dict.fromkeys(request.textual_inversions))
    for name in names:
        job.textual_inversions[name] = job.addons.load(
            "textual_inversions", name, lambda path: read_textual_inversion(path, job.pipeline), _size
        )
    job.metadata["textual_inversions"] = list(names)
    yield


def read_textual_inversion(path: Path, pipeline: Any) -> TextualInversion:
    """Reads the embeddings of one name.

    Args:
        path: A `.safetensors` file with `clip_l` and `clip_g`, of one or more embeddings each, in equal number.
        pipeline: The pipeline that they are for.

    Raises:
        WeightsError: The file is damaged or was made for another model.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise _unusable(path, f"it has more than {_MAX_BYTES // 2**20} MiB")
    try:
        tensors = load(path.read_bytes())
    except (OSError, ValueError, SafetensorError) as error:
        raise _unusable(path, "it is damaged") from error
    if set(tensors) != set(_TEXT_ENCODERS):
        raise _unusable(path, "it does not consist of clip_l and clip_g")
    first, second = (tensors[name] if tensors[name].ndim == 2 else tensors[name][None] for name in _TEXT_ENCODERS)
    widths = tuple(getattr(pipeline, encoder).config.hidden_size for encoder in _TEXT_ENCODERS.values())
    if first.ndim != 2 or second.ndim != 2 or (first.shape[1], second.shape[1]) != widths or len(first) != len(second) or len(first) == 0:
        raise _unusable(path, "its embeddings have another shape than SDXL's")
    if not (first.float().isfinite().all() and second.float().isfinite().all()):
        raise _unusable(path, "it has values that are not finite")
    return first, second


def _size(inversion: TextualInversion) -> int:
    return sum(embeddings.nbytes for embeddings in inversion)


def _unusable(path: Path, reason: str) -> WeightsError:
    return WeightsError(f"textual_inversions/{path.stem}", reason, advice="Replace it by one for SDXL.")
