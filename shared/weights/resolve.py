"""From an entry of the catalogue to complete weights on this machine. No hub is asked unless the operator allows it."""

from __future__ import annotations

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
class Place:
    """Where weights may be.

    Attributes:
        name: As the operator knows it.
        find: The folder that it would be, or None where the place does not exist on this machine.
    """

    name: str
    find: Callable[[Weights, Settings], Path | None]


def _in_cache(weights: Weights, settings: Settings) -> Path | None:
    repository = settings.huggingface_cache / f"models--{weights.repo.replace('/', '--')}"
    main = repository / "refs" / "main"
    named = main.read_text(encoding="ascii", errors="replace").strip() if main.is_file() else ""
    for commit in (weights.revision or "", named):
        if _COMMIT.fullmatch(commit) and (repository / "snapshots" / commit).is_dir():
            return repository / "snapshots" / commit
    return None


PLACES: tuple[Place, ...] = (
    Place("MODELS_DIR", lambda weights, settings: settings.models_dir / weights.name),
    Place("the image (BAKED_MODELS_DIR)", lambda weights, settings: settings.baked_models_dir / weights.name),
    Place("RunPod's cached models (HUGGINGFACE_CACHE)", _in_cache),
    Place("the network volume (VOLUME_MODELS_DIR)", lambda weights, settings: settings.volume_models_dir / weights.name),
)
"""In the order in which they are looked through. A folder that is not complete is passed over."""


def resolve(weights: Weights, settings: Settings) -> Path:
    """Finds a set of weights.

    An explicit path is taken or refused: nothing else is used in its place. Otherwise the first of `PLACES` that has a complete folder, or
    a single file where there may be one, wins. Only when there is none, and `ALLOW_DOWNLOADS` is on, the pinned revision is downloaded
    into `MODELS_DIR`.

    Args:
        weights: What is wanted.
        settings: Where to look.

    Returns:
        A folder that has every file it needs, or a single file. The contents are read, and checked, when the model is loaded.

    Raises:
        SettingsError: There is no such folder. The message is for the operator: it names every place that was looked at.
    """
    explicit: Path | None = getattr(settings, weights.variable.lower())
    if explicit is not None:
        return _explicit(weights, explicit)
    if (found := _look(weights, settings)) is not None:
        place, folder = found
        logger().info("weights found", model=weights.name, place=place.name)
        return folder
    if settings.allow_downloads:
        return _download(weights, settings.models_dir / weights.name)
    looked = "; ".join(f"{place.name}: {_verdict(weights, place.find(weights, settings))}" for place in PLACES)
    raise SettingsError(
        f"The weights {weights.name!r} ({weights.repo}) were not found. Looked in {weights.variable}: not set; {looked}. "
        f"Set {weights.variable} to a complete {weights.layout} folder, put one at {settings.models_dir / weights.name}, "
        "or set ALLOW_DOWNLOADS=1. "
        f"For a trial, `python -m builder.make_tiny_models {settings.models_dir}` makes small models with random weights."
    )


def _look(weights: Weights, settings: Settings) -> tuple[Place, Path] | None:
    """The first complete folder and where it is."""
    for place in PLACES:
        folder = place.find(weights, settings)
        if folder is None:
            continue
        for path in (folder, folder.with_name(f"{folder.name}.safetensors")):
            if _is_complete(weights, path):
                return place, path
    return None


def _is_complete(weights: Weights, path: Path) -> bool:
    if weights.single_file and path.suffix == ".safetensors" and path.is_file():
        return True
    return not missing_files(path, weights.layout)


def find(weights: Weights, settings: Settings) -> Path | None:
    """Finds the folder of weights that a worker can do without: None when they are nowhere. Nothing is downloaded.

    Raises:
        SettingsError: An explicit path names a folder that is not complete.
    """
    explicit: Path | None = getattr(settings, weights.variable.lower())
    return resolve(weights, settings) if explicit is not None or _look(weights, settings) is not None else None


def _explicit(weights: Weights, folder: Path) -> Path:
    if not _is_complete(weights, folder):
        single = " or a .safetensors file" if weights.single_file else ""
        raise SettingsError(
            f"{weights.variable} must name a complete {weights.layout} folder{single}, and names {_verdict(weights, folder)}. "
            "Correct it, or unset it to look elsewhere."
        )
    logger().info("weights found", model=weights.name, place=weights.variable)
    return folder


def _verdict(weights: Weights, folder: Path | None) -> str:
    if folder is None:
        return "none"
    missing = missing_files(folder, weights.layout)
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"{folder} (no such folder)" if not folder.is_dir() else f"{folder} (lacks {', '.join(missing[:3])}{more})"


def _download(weights: Weights, folder: Path) -> Path:
    if weights.revision is None:
        raise SettingsError(
            f"The weights {weights.name!r} were found nowhere and are not downloaded, because the catalogue pins no revision of "
            f"{weights.repo}: pin one in shared/weights/catalogue.py, or put the weights at {folder}."
        )
    # Imported here, so that a worker that finds its weights needs no hub's library.
    from shared.weights.download import carry_out, plan
    from shared.weights.hub import DownloadError

    logger().info(
        "downloading weights", model=weights.name, repo=weights.repo, revision=weights.revision, gigabytes=round(weights.size / 1000**3, 2)
    )
    try:
        carry_out(plan(weights, folder), lambda _bytes: None)
    except (DownloadError, OSError) as error:
        reason = str(error) if isinstance(error, DownloadError) else type(error).__name__
        raise SettingsError(f"The weights {weights.name!r} could not be downloaded from {weights.repo}. {reason}") from error
    if missing_files(folder, weights.layout):
        raise SettingsError(f"The download of the weights {weights.name!r} is not complete: {_verdict(weights, folder)}.")
    return folder
