"""Add-ons that are created instead of read: networks of the published sizes without weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shared.weights.addons import AddonKindName, AddonLibrary, Fingerprint


class FullSizeAddons(AddonLibrary):
    """A library whose add-ons are built on their first use, and kept. It has no files.

    Args:
        builders: By kind and name.
    """

    def __init__(self, builders: Mapping[tuple[AddonKindName, str], Callable[[], Any]]) -> None:
        super().__init__()
        self._builders = builders
        self._built: dict[tuple[AddonKindName, str], Any] = {}

    def build_all(self) -> Mapping[tuple[AddonKindName, str], Any]:
        """Builds what is not built yet, and returns all by kind and name."""
        return {key: self._network(*key) for key in self._builders}

    def names(self, kind: AddonKindName) -> list[str]:
        """The names of a kind."""
        return sorted(name for each, name in self._builders if each == kind)

    def find(self, kind: AddonKindName, name: str) -> Path:
        """A path that does not exist.

        Raises:
            KeyError: There is no such add-on.
        """
        self._builders[kind, name]
        return Path("none")

    def version(self, kind: AddonKindName, name: str) -> tuple[AddonKindName, Path, Fingerprint]:
        """One version for ever."""
        return kind, Path(name), ()

    def load(self, kind: AddonKindName, name: str, read: Callable[[Path], Any], getsizeof: Callable[[Any], int]) -> Any:
        """The add-on itself."""
        return self._network(kind, name)

    def clear_cache(self) -> None:
        """Drops what was built."""
        self._built.clear()

    def _network(self, kind: AddonKindName, name: str) -> Any:
        if (kind, name) not in self._built:
            self._built[kind, name] = self._builders[kind, name]()
        return self._built[kind, name]
