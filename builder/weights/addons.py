"""The catalogue of published add-ons: where they are, and where the handlers read them.

A commit pins the contents of its files. Where none is known, the latest one is taken, its size is compared with the catalogue's, and the
lock file keeps what was downloaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from shared.weights.hub import DownloadError, PublishedFile, PublishedWeights, current_revision, list_files

Feature = Literal["references", "controls", "upscalers", "refiner", "safety"]

_MB = 1000**2
_IP_ADAPTER_REVISION = "018e402774aeeddd60609b4ecdb7e298259dc729"
_OPEN_RAIL = "CreativeML Open RAIL++-M"
_HALF = "diffusion_pytorch_model.fp16.safetensors"


@dataclass(frozen=True, slots=True)
class Addon:
    """One add-on.

    Attributes:
        feature: What it is downloaded for.
        target: Its folder or its `.safetensors` file in `MODELS_DIR`.
        repo: The repository on the Hugging Face hub, `owner/name`.
        revision: The commit, 40 hexadecimal digits; None if it is not known.
        files: The paths of its files in the repository, and their names in the folder.
        licence: As stated by the repository.
        size: In bytes, rounded to megabytes.
        serves: The requests that it serves, for documentation.
        used_by: The handler.
    """

    feature: Feature
    target: str
    repo: str
    revision: str | None
    files: Mapping[str, str]
    licence: str
    size: int
    serves: str
    used_by: Literal["sdxl", "wan", "chat"] = "sdxl"


def _ip_adapter(name: str, size: int, serves: str) -> Addon:
    file = f"{name}.safetensors"
    return Addon(
        "references",
        f"ip_adapters/{file}",
        "h94/IP-Adapter",
        _IP_ADAPTER_REVISION,
        {f"sdxl_models/{file}": file},
        "Apache-2.0",
        size * _MB,
        f"`reference_type`: {serves}",
    )


def _controlnet(kind: str, repo: str, revision: str, file: str, licence: str) -> Addon:
    files = {"config.json": "config.json", file: file}
    return Addon("controls", f"controlnets/{kind}", repo, revision, files, licence, 2502 * _MB, f"`config.controls`, kind `{kind}`")


ADDONS: tuple[Addon, ...] = (
    Addon(
        "references",
        "ip_adapters/image_encoder",
        "h94/IP-Adapter",
        _IP_ADAPTER_REVISION,
        {f"models/image_encoder/{name}": name for name in ("config.json", "model.safetensors")},
        "Apache-2.0",
        2528 * _MB,
        "`reference_type`: every one",
    ),
    _ip_adapter("ip-adapter_sdxl_vit-h", 698, "`style`"),
    Addon(
        "references",
        "ip_adapters/ip_plus_composition_sdxl.safetensors",
        "ostris/ip-composition-adapter",
        None,
        {"ip_plus_composition_sdxl.safetensors": "ip_plus_composition_sdxl.safetensors"},
        "Apache-2.0",
        848 * _MB,
        "`reference_type`: `composition`",
    ),
    _ip_adapter("ip-adapter-plus-face_sdxl_vit-h", 848, "`character`"),
    _controlnet("canny", "diffusers/controlnet-canny-sdxl-1.0", "eb115a19a10d14909256db740ed109532ab1483c", _HALF, _OPEN_RAIL),
    _controlnet("depth", "diffusers/controlnet-depth-sdxl-1.0", "17bb97973f29801224cd66f192c5ffacf82648b4", _HALF, _OPEN_RAIL),
    _controlnet(
        "pose",
        "xinsir/controlnet-openpose-sdxl-1.0",
        "23f966cd5cfdd3f7729c903e243d87152162d2b7",
        "diffusion_pytorch_model.safetensors",
        "Apache-2.0",
    ),
    Addon(
        "upscalers",
        "upscalers/RealESRGAN_x4plus.safetensors",
        "Comfy-Org/Real-ESRGAN_repackaged",
        "ea19b4cd14f85a5b914eee8aa7ff77bc371039a0",
        {"RealESRGAN_x4plus.safetensors": "RealESRGAN_x4plus.safetensors"},
        "BSD-3-Clause",
        67 * _MB,
        "`config.upscale`, both factors",
    ),
    Addon(
        "refiner",
        "refiner",
        "stabilityai/stable-diffusion-xl-refiner-1.0",
        "5d4cfe854c9a9a87939ff3653551c2b3c99a4356",
        {name: name for name in ("model_index.json", "unet/config.json", f"unet/{_HALF}")},
        _OPEN_RAIL,
        4519 * _MB,
        "`config.refiner`",
    ),
    Addon(
        "safety",
        "safety_checker",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        {f"safety_checker/{name}": name for name in ("config.json", "model.fp16.safetensors")},
        "CreativeML Open RAIL-M",
        608 * _MB,
        "`config.safety_check`, `SDXL_SAFETY_CHECK`",
    ),
)
"""In the order of download."""


def select_addons(features: Sequence[str], handlers: Sequence[str], addons: Sequence[Addon] = ADDONS) -> list[Addon]:
    """Returns the add-ons of some features.

    Args:
        features: `all` for every feature.
        handlers: The handlers that they are for; all if empty.
        addons: The catalogue.

    Raises:
        DownloadError: No handler has one of the features.
    """
    offered = [addon for addon in addons if addon.used_by in handlers or not handlers]
    known = dict.fromkeys(addon.feature for addon in offered)
    if unknown := [feature for feature in features if feature not in (*known, *(["all"] if known else []))]:
        available = f"Available: {', '.join((*known, 'all'))}." if known else f"There are none for {', '.join(handlers)}."
        raise DownloadError(f"No add-ons in the catalogue: {', '.join(unknown)}. {available}")
    return [addon for addon in offered if addon.feature in features or "all" in features]


def find_published_addon(addon: Addon) -> PublishedWeights:
    """Lists the files of an add-on on the hub, under the names that they get in its folder.

    Raises:
        DownloadError: The hub cannot be reached or lacks one of the files, or an unpinned add-on has another size than the catalogue's.
    """
    revision = addon.revision or current_revision(addon.repo)
    published = {file.path: file for file in list_files(addon.repo, revision, addon.files)}
    if missing := sorted(set(addon.files) - set(published)):
        raise DownloadError(f"{addon.repo} at {revision} has no {missing[0]}.")
    if addon.revision is None:
        _check_size(addon, published.values())
    files = tuple(replace(published[path], path=name) for path, name in addon.files.items())
    return PublishedWeights(addon.repo, revision, addon.licence, files)


def _check_size(addon: Addon, files: Iterable[PublishedFile]) -> None:
    size = sum(file.bytes for file in files)
    if abs(size - addon.size) > _MB:
        raise DownloadError(
            f"The latest {addon.target} of {addon.repo} has {size / _MB:,.0f} MB instead of {addon.size / _MB:,.0f}: "
            "it is another file than the one that the catalogue knows."
        )
