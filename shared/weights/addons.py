"""The operator's optional weights, addressed by name: LoRAs, embeddings, VAEs, ControlNets and so on."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, TypeVar

from cachetools import LRUCache

from shared.contract.names import ADDON_NAME, quote_name
from shared.errors import ModelUnavailable
from shared.settings import Settings
from shared.weights.errors import WeightsError
from shared.weights.file_limits import limit_problem

T = TypeVar("T")

Fingerprint = tuple[tuple[int, int], ...]
"""Modification time and size of each file."""

AddonKindName = Literal[
    "loras", "textual_inversions", "vaes", "controlnets", "ip_adapters", "image_encoder", "upscalers", "refiner", "safety_checker"
]


@dataclass(frozen=True, slots=True)
class AddonKind:
    """Where the add-ons of one kind are stored, and in which form.

    Attributes:
        folder: Their folder, relative to `MODELS_DIR`.
        field: The request field that names one.
        noun: What messages call one.
        files: Whether one may be a `.safetensors` file.
        folders: Whether one may be a folder with a configuration.
        only: The only accepted name, where the folder also holds other things.
    """

    folder: str
    field: str
    noun: str
    files: bool = True
    folders: bool = False
    only: str | None = None


ADDON_KINDS: Mapping[AddonKindName, AddonKind] = {
    "loras": AddonKind("loras", "config.loras", "LoRA"),
    "textual_inversions": AddonKind("textual_inversions", "config.textual_inversions", "textual inversion"),
    "vaes": AddonKind("vaes", "config.vae", "VAE", folders=True),
    "controlnets": AddonKind("controlnets", "config.controls", "ControlNet", files=False, folders=True),
    "ip_adapters": AddonKind("ip_adapters", "metadata.reference_type", "IP-Adapter"),
    "image_encoder": AddonKind("ip_adapters", "metadata.reference_type", "image encoder", files=False, folders=True, only="image_encoder"),
    "upscalers": AddonKind("upscalers", "config.upscale", "upscaler"),
    "refiner": AddonKind(".", "config.refiner", "refiner", files=False, folders=True, only="refiner"),
    "safety_checker": AddonKind(".", "config.safety_check", "safety checker", files=False, folders=True, only="safety_checker"),
}

CACHE_LIMIT = 8 * 2**30
"""Bytes of loaded add-ons that stay cached: SDXL's refiner and a dozen LoRAs, or three ControlNets, in half precision."""
_SUFFIX = ".safetensors"
_CONFIGURATIONS = ("config.json", "model_index.json")
_SAFE_NAME = re.compile(ADDON_NAME)


class AddonLibrary:
    """The installed add-ons, and an LRU cache of those that were loaded.

    The folders are listed on every call, so an add-on that is added or removed takes effect at once. The cache is not thread-safe: only
    the GPU thread calls `load` and `clear_cache`.

    Args:
        folders: Folders such as `MODELS_DIR`, in search order. One that does not exist has no add-ons.
        limit: Bytes of loaded add-ons to cache.
    """

    def __init__(self, *folders: Path, limit: int = CACHE_LIMIT) -> None:
        self._folders = folders
        self._cache: LRUCache[object, tuple[Any, int]] = LRUCache(limit, getsizeof=itemgetter(1))

    def names(self, kind: AddonKindName) -> list[str]:
        """The installed add-ons of a kind, sorted. Links that lead out of the kind's folder do not count."""
        return sorted(self._paths(kind))

    def find(self, kind: AddonKindName, name: str) -> Path:
        """Finds an add-on.

        Args:
            kind: Its kind.
            name: The name in the request. It is compared with the installed names and never made into a path.

        Returns:
            A `.safetensors` file, or a folder with a configuration and weights.

        Raises:
            ModelUnavailable: It is not installed, and the message lists those that are; or more would be parsed of it than is allowed.
        """
        path = self._paths(kind, name).get(unicodedata.normalize("NFC", name))
        if path is None:
            names = self.names(kind)
            available = f"Available: {', '.join(names)}." if names else "Omit it, or ask the operator to install it."
            raise ModelUnavailable(f"{_label(kind, name)} is not installed. {available}")
        if (problem := limit_problem(path)) is not None:
            raise _unusable(_label(kind, name), problem)
        return path

    def load(self, kind: AddonKindName, name: str, read: Callable[[Path], T], getsizeof: Callable[[T], int]) -> T:
        """Returns a loaded add-on, from the cache unless its files have changed. An add-on larger than the cache is loaded each time.

        Args:
            kind: Its kind.
            name: The name in the request.
            read: Loads the path that `find` returns.
            getsizeof: The size of the result in bytes.

        Raises:
            ModelUnavailable: It is not installed, or `read` raised `WeightsError`.
        """
        key = self.version(kind, name)
        if key in self._cache:
            cached: T = self._cache[key][0]
            return cached
        loaded = _read(key[1], read, _label(kind, name))
        self._store(key, loaded, getsizeof(loaded))
        return loaded

    def version(self, kind: AddonKindName, name: str) -> tuple[AddonKindName, Path, Fingerprint]:
        """Returns what tells an add-on, with its current content, from all others.

        Raises:
            ModelUnavailable: It is not installed.
        """
        path = self.find(kind, name)
        return kind, path, _fingerprint(path)

    def clear_cache(self) -> None:
        """Drops all cached add-ons, to free memory."""
        self._cache.clear()

    def _store(self, key: object, loaded: object, size: int) -> None:
        if size > self._cache.maxsize:
            self._cache.clear()  # memory then holds this one alone
        else:
            self._cache[key] = (loaded, size)

    def _paths(self, kind: AddonKindName, wanted: str | None = None) -> dict[str, Path]:
        """The add-ons of a kind by name, or only the wanted one: a volume may hold many files and answer slowly."""
        found: dict[str, Path] = {}
        for folder in self._folders:
            found = self._paths_in(folder, kind, wanted) | found
            if found and wanted is not None:
                break
        return found

    def _paths_in(self, folder: Path, kind: AddonKindName, wanted: str | None) -> dict[str, Path]:
        spec = ADDON_KINDS[kind]
        home = (folder / spec.folder).resolve()
        entries = [(_name(path), path) for path in sorted(home.iterdir())] if home.is_dir() else []
        return {
            name: path
            for name, path in entries
            if spec.only in (None, name)
            and (wanted is None or unicodedata.normalize("NFC", wanted) == name)
            and _SAFE_NAME.fullmatch(name)
            and _has_form(path, spec)
            and _is_within(path, home)
        }


def _read(path: Path, read: Callable[[Path], T], label: str) -> T:
    """Reads an add-on.

    Raises:
        ModelUnavailable: It is unusable.
    """
    try:
        return read(path)
    except WeightsError as error:
        raise _unusable(label, error.reason) from error
    except RecursionError as error:
        raise _unusable(label, "its configuration is nested too deeply") from error


def _unusable(label: str, reason: str) -> ModelUnavailable:
    return ModelUnavailable(f"{label} cannot be used: {reason}. Omit it, or ask the operator to replace it.")


def addon_folders(settings: Settings) -> tuple[Path, ...]:
    """Returns the folders of add-ons, in search order: where weights of their own name are searched, too."""
    return (settings.models_dir, settings.baked_models_dir, settings.volume_models_dir)


def _label(kind: AddonKindName, name: str) -> str:
    spec = ADDON_KINDS[kind]
    return f"The {spec.noun}" if spec.only is not None else f"{spec.noun[0].upper()}{spec.noun[1:]} {quote_name(name)}"


def _name(path: Path) -> str:
    """The name of an add-on, in Unicode's composed form: archives made on macOS have the decomposed one."""
    return unicodedata.normalize("NFC", path.name.removesuffix(_SUFFIX) if path.is_file() else path.name)


def _is_within(path: Path, home: Path) -> bool:
    """Whether neither the path, nor anything in it, is a link that leads out of `home`."""
    return all(each.resolve().is_relative_to(home) for each in (path, *(path.rglob("*") if path.is_dir() else ())))


def _has_form(path: Path, spec: AddonKind) -> bool:
    if path.is_file():
        return spec.files and path.suffix == _SUFFIX
    return spec.folders and any((path / name).is_file() for name in _CONFIGURATIONS)


def _fingerprint(path: Path) -> Fingerprint:
    """Modification time and size of a file, or of a folder and every file in it: a folder's own time ignores files that are overwritten."""
    files = [each for each in sorted(path.rglob("*")) if each.is_file()] if path.is_dir() else []
    return tuple((status.st_mtime_ns, status.st_size) for status in (each.stat() for each in (path, *files)))
