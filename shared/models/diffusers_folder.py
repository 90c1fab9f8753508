"""Reading a diffusers folder: which files its components are in, its configuration, its scheduler."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.models.load import quiet
from shared.settings import SettingsError
from shared.weights.folders import weight_files

# Control tokens that a user types stay text: `<|endoftext|>` in a prompt does not end it.
TYPED_TEXT = {"split_special_tokens": True}


def silence_libraries() -> None:
    """Silences the progress bars and the warnings of transformers and diffusers."""
    from transformers.utils import logging as transformers_logging

    quiet(transformers_logging)  # before diffusers is imported, which makes transformers talk
    from diffusers.utils import logging as diffusers_logging

    quiet(diffusers_logging)


def component_files(folder: Path, parts: tuple[str, ...], *, half: bool) -> Iterator[Path]:
    """The weight files of some components of a diffusers folder.

    Args:
        folder: The diffusers folder.
        parts: Names of components, such as `unet`.
        half: Whether files in half precision are preferred.
    """
    for part in parts:
        yield from weight_files(folder / part, half=half)


def load_scheduler(folder: Path) -> Any:
    """Loads the scheduler of a diffusers folder.

    Args:
        folder: The scheduler's own folder, with `scheduler_config.json`.

    Raises:
        SettingsError: It is not one of diffusers' schedulers.
    """
    import diffusers

    name = read_config(folder / "scheduler_config.json").get("_class_name")
    kind: Any = getattr(diffusers, str(name), None)
    known = isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)
    if not known:
        raise SettingsError(f"The scheduler {name!r} of the weights is not known. Copy them again, or name other ones.")
    return kind.from_pretrained(folder, local_files_only=True)


def read_config(path: Path) -> dict[str, Any]:
    """Reads a JSON configuration.

    Raises:
        SettingsError: The file is missing or not JSON.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read: {type(error).__name__}. Copy them again, or name other ones.") from error
    return content
