"""Makes a picture with the small models, by the recipes of the workers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from handlers.sdxl.request import SdxlRequest
from handlers.wan.request import WanRequest
from playground.pictures import layout, scenes
from playground.pictures.table import Cell, Picture
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.recipe import ImageOutput, JobRun, Recipe, VideoOutput
from shared.settings import Settings, prepare_environment

_REQUESTS: Mapping[str, type[SdxlRequest | WanRequest]] = {"sdxl": SdxlRequest, "wan": WanRequest}
_NO_DEADLINE = 3600.0


def load_recipe(handler: str, models: Path) -> Recipe[Any]:
    """Loads a handler's recipe as its worker does, on the CPU.

    On one thread, because kernels sum in another order on more, and the small models gain nothing from them.
    """
    prepare_environment()
    import torch

    torch.set_num_threads(1)
    settings = Settings(models_dir=models, device="cpu")
    if handler == "sdxl":
        from handlers.sdxl.handler import load as load_sdxl

        return load_sdxl(settings)
    from handlers.wan.handler import load as load_wan

    return load_wan(settings)


def digest(picture: Picture) -> str:
    """Returns a digest of all requests and labels of a picture. It changes when the picture has to be made again."""
    cells = [(cell.label, cell.shows, None if cell.changes is None else request_of(picture, cell)) for cell in picture.cells]
    return hashlib.sha256(json.dumps([picture.columns, cells], sort_keys=True).encode()).hexdigest()[:16]


def request_of(picture: Picture, cell: Cell) -> dict[str, Any]:
    """Returns the request of a cell: the picture's, with the cell's changes in each section."""
    request = dict(picture.request)
    for name, change in (cell.changes or {}).items():
        request[name] = {**request.get(name, {}), **change} if isinstance(change, Mapping) else change
    return request


def suffix(picture: Picture) -> str:
    """Returns the extension of the file."""
    return "webp" if picture.handler == "wan" else "png"


def make(picture: Picture, recipe: Recipe[Any]) -> bytes:
    """Makes a picture.

    Returns:
        A PNG of images, or an animated WebP of clips.
    """
    labels = [cell.label for cell in picture.cells]
    frames = [_frames(picture, cell, recipe) for cell in picture.cells]
    count = max(map(len, frames))
    sheets = [layout.arrange([cell[min(index, len(cell) - 1)] for cell in frames], labels, picture.columns) for index in range(count)]
    if suffix(picture) == "png":
        return layout.png(sheets[0], digest(picture))
    return layout.webp(sheets, int(picture.request["config"]["fps"]), digest(picture))


def _frames(picture: Picture, cell: Cell, recipe: Recipe[Any]) -> list[Image.Image]:
    """Returns the image of a cell, or the frames of its clip."""
    if cell.changes is None:
        return [scenes.image(cell.shows)]
    request = _REQUESTS[picture.handler].parse(request_of(picture, cell), job_id="picture")
    recipe.check(request)
    run = JobRun("picture", CancelToken(_NO_DEADLINE), lambda done, total, *, text=None, preview=None: None)
    references = {name: scenes.image(str(reference)) for name, reference in request.references.items()}
    (output,) = recipe.generate(request, references, run)
    if isinstance(output, VideoOutput):
        return [Image.fromarray(np.array(frame)) for frame in output.frames]
    assert isinstance(output, ImageOutput)
    return [Image.fromarray(output.pixels)]
