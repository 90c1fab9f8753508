"""Reads a diffusers folder: the weight files of its components, its configuration, its scheduler."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.models.load import silence
from shared.weights.errors import WeightsError
from shared.weights.folders import weight_files

# Special tokens that a user types are tokenized as ordinary text: `<|endoftext|>` in a prompt does not end it.
LITERAL_SPECIAL_TOKENS = {"split_special_tokens": True}


def silence_libraries() -> None:
    """Turns off the progress bars and the warnings of transformers and diffusers."""
    from transformers.utils import logging as transformers_logging

    silence(transformers_logging)  # before the import of diffusers, which makes transformers log
    from diffusers.utils import logging as diffusers_logging

    silence(diffusers_logging)


def component_files(folder: Path, components: tuple[str, ...], *, half: bool) -> Iterator[Path]:
    """Lists the weight files of some components.

    Args:
        folder: The diffusers folder.
        components: Their names, such as `unet`.
        half: Whether files in half precision are preferred.
    """
    for component in components:
        yield from weight_files(folder / component, half=half)


def load_scheduler(folder: Path) -> Any:
    """Loads the scheduler of a diffusers folder.

    Args:
        folder: The scheduler's own folder, with `scheduler_config.json`.

    Raises:
        WeightsError: The configuration cannot be read, or names no scheduler of diffusers.
    """
    import diffusers

    name = read_config(folder / "scheduler_config.json").get("_class_name")
    kind: Any = getattr(diffusers, str(name), None)
    known = isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)
    if not known:
        raise WeightsError(folder.parent.name, f"the scheduler {name!r} is unknown")
    return kind.from_pretrained(folder, local_files_only=True)


def read_config(path: Path) -> dict[str, Any]:
    """Reads a JSON configuration.

    Raises:
        WeightsError: The file is missing or not JSON.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        cause = type(error).__name__
        raise WeightsError(path.parent.name, f"{path.name} cannot be read", detail=f"{path} cannot be read ({cause})") from error
    return content
