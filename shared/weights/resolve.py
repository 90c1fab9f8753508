"""Resolves a catalogue entry to complete weights on this machine. The hub is contacted only if the operator allows downloads."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shared.settings import Settings, SettingsError
from shared.telemetry import logger
from shared.weights.catalogue import Weights
from shared.weights.folders import missing_files

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class WeightsLocation:
    """A location that is searched for weights.

    Attributes:
        name: The location in messages.
        find: Returns the folder of a catalogue entry, or None where the location does not exist on this machine.
    """

    name: str
    find: Callable[[Weights, Settings], Path | None]


def _in_hub_cache(weights: Weights, settings: Settings) -> Path | None:
    repository = settings.huggingface_cache / f"models--{weights.repo.replace('/', '--')}"
    main = repository / "refs" / "main"
    named = main.read_text(encoding="ascii", errors="replace").strip() if main.is_file() else ""
    for commit in (weights.revision or "", named):
        if _COMMIT.fullmatch(commit) and (repository / "snapshots" / commit).is_dir():
            return repository / "snapshots" / commit
    return None


LOCATIONS: tuple[WeightsLocation, ...] = (
    WeightsLocation("MODELS_DIR", lambda weights, settings: settings.models_dir / weights.name),
    WeightsLocation("the image (BAKED_MODELS_DIR)", lambda weights, settings: settings.baked_models_dir / weights.name),
    WeightsLocation("RunPod's cached models (HUGGINGFACE_CACHE)", _in_hub_cache),
    WeightsLocation("the network volume (VOLUME_MODELS_DIR)", lambda weights, settings: settings.volume_models_dir / weights.name),
)
"""In search order. An incomplete folder is skipped."""


def resolve(weights: Weights, settings: Settings) -> Path:
    """Finds a set of weights.

    An explicit path is accepted or rejected, without an alternative. Otherwise the first of `LOCATIONS` with a complete folder, or a single
    file where one is accepted, is used. If there is none and `ALLOW_DOWNLOADS` is on, the pinned revision is downloaded into `MODELS_DIR`.

    Args:
        weights: The catalogue entry.
        settings: The search locations.

    Returns:
        A folder with every required file, or a single file. The contents are read and checked when the model is loaded.

    Raises:
        SettingsError: The weights were not found. The message is for the operator and names every location that was searched.
    """
    explicit: Path | None = getattr(settings, weights.variable.lower())
    if explicit is not None:
        return _explicit(weights, explicit)
    if (found := _search(weights, settings)) is not None:
        location, folder = found
        logger().info("weights found", model=weights.name, location=location.name)
        return folder
    if settings.allow_downloads:
        return _download(weights, settings.models_dir / weights.name)
    searched = "; ".join(f"{location.name}: {_describe(weights, location.find(weights, settings))}" for location in LOCATIONS)
    raise SettingsError(
        f"The weights {weights.name!r} ({weights.repo}) were not found. Searched {weights.variable}: not set; {searched}. "
        f"Set {weights.variable} to a complete {weights.layout} folder, put one at {settings.models_dir / weights.name}, "
        "or set ALLOW_DOWNLOADS=1. "
        f"For a trial, `python -m builder.make_tiny_models {settings.models_dir}` creates small models with random weights."
    )


def weights_name(path: Path) -> str:
    """Returns the name of weights for payloads: of the file, the folder, or in a Hugging Face cache the repository. Never a path."""
    absolute = Path(os.path.abspath(path))  # not `resolve`, which would follow a link of the cache to a nameless blob
    if absolute.suffix == ".safetensors":
        return absolute.stem
    if absolute.parent.name == "snapshots" and absolute.parent.parent.name.startswith("models--"):
        return absolute.parent.parent.name.rpartition("--")[2]
    return absolute.name


def _search(weights: Weights, settings: Settings) -> tuple[WeightsLocation, Path] | None:
    """The first location with complete weights, and their path."""
    for location in LOCATIONS:
        folder = location.find(weights, settings)
        if folder is None:
            continue
        for path in (folder, folder.with_name(f"{folder.name}.safetensors")):
            if _is_complete(weights, path):
                return location, path
    return None


def _is_complete(weights: Weights, path: Path) -> bool:
    if weights.single_file and path.suffix == ".safetensors" and path.is_file():
        return True
    return not missing_files(path, weights.layout)


def find_optional(weights: Weights, settings: Settings) -> Path | None:
    """Finds weights that are optional: returns None if they are not on this machine. Downloads nothing.

    Raises:
        SettingsError: An explicit path names an incomplete folder.
    """
    explicit: Path | None = getattr(settings, weights.variable.lower())
    return resolve(weights, settings) if explicit is not None or _search(weights, settings) is not None else None


def _explicit(weights: Weights, folder: Path) -> Path:
    if not _is_complete(weights, folder):
        single = " or a .safetensors file" if weights.single_file else ""
        raise SettingsError(
            f"{weights.variable} must name a complete {weights.layout} folder{single}; got {_describe(weights, folder)}. "
            "Correct it, or unset it to search the other locations."
        )
    logger().info("weights found", model=weights.name, location=weights.variable)
    return folder


def _describe(weights: Weights, folder: Path | None) -> str:
    if folder is None:
        return "none"
    missing = missing_files(folder, weights.layout)
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"{folder} (no such folder)" if not folder.is_dir() else f"{folder} (lacks {', '.join(missing[:3])}{more})"


def _download(weights: Weights, folder: Path) -> Path:
    if weights.revision is None:
        raise SettingsError(
            f"The weights {weights.name!r} were not found and cannot be downloaded, because the catalogue pins no revision of "
            f"{weights.repo}: pin one in shared/weights/catalogue.py, or put the weights at {folder}."
        )
    # Imported here, so that a worker that finds its weights needs no hub library.
    from shared.weights.download import plan_download, run_download
    from shared.weights.hub import DownloadError, find_published

    logger().info(
        "downloading weights", model=weights.name, repo=weights.repo, revision=weights.revision, gigabytes=round(weights.size / 1000**3, 2)
    )
    try:
        run_download(plan_download(find_published(weights), folder), lambda _bytes: None)
    except (DownloadError, OSError) as error:
        reason = str(error) if isinstance(error, DownloadError) else type(error).__name__
        raise SettingsError(f"The weights {weights.name!r} could not be downloaded from {weights.repo}. {reason}") from error
    if missing_files(folder, weights.layout):
        raise SettingsError(f"The download of the weights {weights.name!r} is not complete: {_describe(weights, folder)}.")
    return folder
