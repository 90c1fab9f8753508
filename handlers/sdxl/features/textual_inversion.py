"""Textual inversions: words with embeddings of their own, for one job. Neither tokenizers nor embedding tables change."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from handlers.sdxl.request import SdxlRequest
from shared.errors import ModelUnavailable
from shared.weights.addons import Shelf

if TYPE_CHECKING:
    from handlers.sdxl.pipeline import Stage

Inversion = tuple[Tensor, Tensor]
"""The vectors of one word, for each text encoder: count × width."""

# The tensors' names in files for SDXL, as its first trainers wrote them, and all others since.
_PARTS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}


def accept(request: SdxlRequest, shelf: Shelf) -> None:
    """Refuses a request whose textual inversions are not on the shelf.

    Raises:
        ModelUnavailable: It names the field and what there is.
    """
    for name in request.textual_inversions:
        shelf.find("textual_inversions", name)


@contextmanager
def attached(stage: Stage, request: SdxlRequest, references: Mapping[str, Image.Image], shelf: Shelf) -> Iterator[None]:
    """Gives the names of the request's textual inversions their meaning in the prompts of the stage.

    Raises:
        ModelUnavailable: One cannot be used.
    """
    names = tuple(dict.fromkeys(request.textual_inversions))
    for name in names:
        stage.words[name] = shelf.load("textual_inversions", name, lambda path: read_inversion(path, stage.pipeline), _size)
    if names:
        stage.notes["textual_inversions"] = list(names)
    yield


def read_inversion(path: Path, pipeline: Any) -> Inversion:
    """Reads the embeddings of one word.

    Args:
        path: A `.safetensors` file with `clip_l` and `clip_g`, each of one or more vectors, of both as many.
        pipeline: The pipeline that they are for.

    Raises:
        ModelUnavailable: It is damaged, or made for another model.
    """
    try:
        tensors = load(path.read_bytes())
    except (OSError, ValueError, SafetensorError) as error:
        raise _unusable(path, "it is damaged") from error
    if set(tensors) != set(_PARTS):
        raise _unusable(path, "it has not just clip_l and clip_g")
    first, second = (tensors[name] if tensors[name].ndim == 2 else tensors[name][None] for name in _PARTS)
    widths = tuple(getattr(pipeline, encoder).config.hidden_size for encoder in _PARTS.values())
    if first.ndim != 2 or second.ndim != 2 or (first.shape[1], second.shape[1]) != widths or len(first) != len(second) or len(first) == 0:
        raise _unusable(path, "its vectors have another shape than SDXL's")
    if not (first.float().isfinite().all() and second.float().isfinite().all()):
        raise _unusable(path, "it holds values that are not finite")
    return first, second


def split(text: str, names: Mapping[str, object]) -> Iterator[tuple[str, str | None]]:
    """Takes a text apart at the names of textual inversions.

    A name counts where it stands as a word, in any case, or in angle brackets; of two that fit the longer one counts.

    Yields:
        The pieces in their order, each with the name that it is, or None for plain text.
    """
    if not names:
        yield text, None
        return
    spelt = {name.lower(): name for name in names}
    words = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    for piece in re.split(rf"(<(?:{words})>|(?<!\w)(?:{words})(?!\w))", text, flags=re.IGNORECASE):
        yield piece, spelt.get(piece.lower().removeprefix("<").removesuffix(">"))


def _size(inversion: Inversion) -> int:
    return sum(vectors.nbytes for vectors in inversion)


def _unusable(path: Path, reason: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"config.textual_inversions: {path.stem!r} cannot be used: {reason}. "
        "Leave it out, or ask the operator to replace it by one for SDXL."
    )
