"""What each picture shows: a request, and what varies from one cell to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from handlers.sdxl.scheduler_names import SchedulerName
from playground.pictures.scenes import url


@dataclass(frozen=True)
class Cell:
    """One image or clip of a picture.

    Attributes:
        label: The text below it.
        changes: What its request has in addition, by section: `{"config": {"steps": 25}}`. None shows an image of `scenes` instead.
        shows: That image.
    """

    label: str
    changes: Mapping[str, Any] | None = None
    shows: str = ""


@dataclass(frozen=True)
class Picture:
    """A row of images, or of clips that play together.

    Attributes:
        handler: `sdxl` or `wan`.
        name: The parameter, and the file's name.
        request: What all cells have in common.
        cells: From left to right.
        columns: Cells in a row.
    """

    handler: str
    name: str
    request: Mapping[str, Any]
    cells: Sequence[Cell]
    columns: int = field(default=6)


_SCHEDULERS = [name for name in get_args(SchedulerName) if name != "pndm"]  # it cannot sample the small model, which predicts velocities
_IMAGE = {"id": "picture", "user_id": "docs", "type": "sdxl_image_fast"}
_CONFIG = {"resolution": "64x64", "steps": 20, "guidance_scale": 2.0, "seed": 1}
_CLIP = {"id": "picture", "user_id": "docs", "type": "video_fast"}
_CLIP_CONFIG = {"width": 64, "height": 64, "frames": 17, "fps": 8, "steps": 20, "guidance_scale": 3.0, "seed": 1}


def _sdxl(prompt: str, **config: Any) -> Mapping[str, Any]:
    return {**_IMAGE, "prompt": prompt, "config": _CONFIG | config}


def _config(name: str, *values: Any, **others: Any) -> list[Cell]:
    """One cell for each value of a field of `config`."""
    return [Cell(str(value), {"config": {name: value, **others}}) for value in values]


def _metadata(name: str, *values: Any) -> list[Cell]:
    return [Cell(str(value), {"metadata": {name: value}}) for value in values]


def _reference(image: str, kind: str) -> Cell:
    return Cell(kind, {"metadata": {"reference_image_url": url(image), "reference_type": kind, "reference_strength": 1.0}})


def _clip(prompt: str, name: str, *cells: Cell, mode: str, **references: str) -> Picture:
    config = _CLIP_CONFIG | {"reference_mode": mode} | {field: url(image) for field, image in references.items()}
    return Picture("wan", name, {**_CLIP, "prompt": prompt, "config": config}, [*cells, Cell(mode, {})])


PICTURES: Sequence[Picture] = (
    Picture("sdxl", "seed", _sdxl("a figure"), _config("seed", 1, 2, 3, 4, 5, 6)),
    Picture("sdxl", "guidance_scale", _sdxl("a red square on a blue background"), _config("guidance_scale", 1.0, 1.5, 2.0, 4.0, 8.0, 16.0)),
    Picture("sdxl", "steps", _sdxl("a purple ring on a striped yellow background", scheduler="lcm"), _config("steps", 1, 2, 4, 8, 16, 32)),
    Picture(
        "sdxl",
        "negative_prompt",
        _sdxl("a red circle"),
        [
            Cell("none", {}),
            *(
                Cell(f"at guidance {scale}", {"negative_prompt": "a red circle on a white background", "config": {"guidance_scale": scale}})
                for scale in (1.0, 2.0, 3.0, 4.0, 6.0)
            ),
        ],
    ),
    Picture("sdxl", "scheduler", _sdxl("a red circle on a striped cyan background", steps=10), _config("scheduler", *_SCHEDULERS)),
    Picture(
        "sdxl",
        "denoise_strength",
        {**_sdxl("a red square on the right, white background"), "metadata": {"reference_image_url": url("ring")}},
        [Cell("reference", shows="ring"), *_metadata("denoise_strength", 0.1, 0.2, 0.3, 0.6, 1.0)],
    ),
    Picture(
        "sdxl",
        "reference_type",
        _sdxl("a figure"),
        [
            Cell("without", {}),
            Cell("reference", shows="star"),
            *(_reference("star", kind) for kind in ("style", "composition", "character")),
        ],
    ),
    Picture(
        "sdxl",
        "reference_strength",
        {**_sdxl("a figure"), "metadata": {"reference_image_url": url("triangle"), "reference_type": "composition"}},
        [Cell("reference", shows="triangle"), *_metadata("reference_strength", 0.0, 0.25, 0.5, 0.75, 1.0)],
    ),
    Picture(
        "sdxl",
        "controls",
        _sdxl("a blue star on a yellow background"),
        [
            Cell("edges", shows="edges"),
            *(
                Cell(
                    str(strength),
                    {"config": {"controls": [{"kind": "canny", "image": url("edges"), "prepared": True, "strength": strength}]}},
                )
                for strength in (0.0, 0.25, 0.5, 0.75, 1.0)
            ),
        ],
    ),
    Picture(
        "sdxl",
        "loras",
        _sdxl("a red circle on a cyan background"),
        [Cell(str(scale), {"config": {"loras": [{"name": "stripes", "scale": scale}]}}) for scale in (0.0, 0.6, 0.8, 1.0, 1.2, 1.4)],
    ),
    Picture(
        "sdxl",
        "mask",
        {**_sdxl("a red square on the right, blue background", mask=url("mask")), "metadata": {"reference_image_url": url("ring")}},
        [Cell("reference", shows="ring"), Cell("mask", shows="mask"), *_metadata("denoise_strength", 0.3, 0.6, 1.0)],
    ),
    Picture(
        "sdxl",
        "enhance",
        _sdxl("a cyan star on a purple background"),
        [Cell("none", {})]
        + [Cell(f"{name} {value}", {"config": {"enhance": {name: value}}}) for name in ("sharpen", "contrast") for value in (0.5, 1.0)],
    ),
    _clip("a yellow circle moves to the right on a black background", "none", mode="none"),
    _clip("a circle moves to the right", "single", Cell("image", shows="disc-left"), mode="single", image="disc-left"),
    _clip(
        "a yellow circle moves to the right on a black background",
        "start",
        Cell("first_frame", shows="disc-left"),
        mode="start",
        first_frame="disc-left",
    ),
    _clip(
        "a yellow circle moves to the left on a black background",
        "end",
        Cell("last_frame", shows="disc-left"),
        mode="end",
        last_frame="disc-left",
    ),
    _clip(
        "a yellow circle moves to the right on a black background",
        "both",
        Cell("first_frame", shows="disc-left"),
        Cell("last_frame", shows="disc-right"),
        mode="both",
        first_frame="disc-left",
        last_frame="disc-right",
    ),
)
