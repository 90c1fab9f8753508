"""Another VAE than the checkpoint's own, for one job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.vae_files import load_vae
from shared.models.device import size_of
from shared.weights.addons import Shelf

if TYPE_CHECKING:
    from handlers.sdxl.pipeline import Stage


def accept(request: SdxlRequest, shelf: Shelf) -> None:
    """Refuses a VAE that is not on the shelf.

    Raises:
        ModelUnavailable: It names the field and what there is.
    """
    if request.vae is not None:
        shelf.find("vaes", request.vae)


@contextmanager
def attached(stage: Stage, request: SdxlRequest, references: Mapping[str, Image.Image], shelf: Shelf) -> Iterator[None]:
    """Has the request's VAE encode references and decode pictures, while the body runs.

    Raises:
        ModelUnavailable: It cannot be used. Nothing has been changed then.
    """
    if request.vae is None:
        yield
        return
    pipeline = stage.pipeline
    own = pipeline.vae
    pipeline.vae = _load(request.vae, pipeline, shelf)
    stage.notes["vae"] = request.vae
    try:
        yield
    finally:
        pipeline.vae = own


def _load(name: str, pipeline: Any, shelf: Shelf) -> Any:
    def read(path: Path) -> Any:
        unet = pipeline.unet
        return load_vae(path, pipeline.vae.config, name=f"vaes/{name}", device=unet.device, dtype=unet.dtype)

    return shelf.load("vaes", name, read, size_of)
