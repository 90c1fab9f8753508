"""What an operator put beside the model: LoRAs, embeddings, VAEs, ControlNets …, by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from shared.contract.names import quote_name
from shared.errors import ModelUnavailable
from shared.settings import SettingsError
from shared.weights.lru_cache import Kept

T = TypeVar("T")

Kind = Literal[
    "loras", "textual_inversions", "vaes", "controlnets", "ip_adapters", "image_encoder", "upscalers", "refiner", "safety_checker"
]
"""What there may be on a shelf."""


@dataclass(frozen=True, slots=True)
class Board:
    """Where things of one kind lie.

    Attributes:
        folder: Their folder, relative to the shelf's.
        field: The request's field that names one.
        noun: What a message calls one of them.
        files: Whether one may be a `.safetensors` file.
        folders: Whether one may be a folder with a configuration in it.
        only: The one name that counts, where a folder holds other things too.
    """

    folder: str
    field: str
    noun: str
    files: bool = True
    folders: bool = False
    only: str | None = None


BOARDS: Mapping[Kind, Board] = {
    "loras": Board("loras", "config.loras", "LoRA"),
    "textual_inversions": Board("textual_inversions", "config.textual_inversions", "textual inversion"),
    "vaes": Board("vaes", "config.vae", "VAE", folders=True),
    "controlnets": Board("controlnets", "config.controls", "ControlNet", files=False, folders=True),
    "ip_adapters": Board("ip_adapters", "metadata.reference_type", "IP-Adapter"),
    "image_encoder": Board("ip_adapters", "metadata.reference_type", "image encoder", files=False, folders=True, only="image_encoder"),
    "upscalers": Board("upscalers", "config.upscale", "upscaler"),
    "refiner": Board(".", "config.refiner", "refiner", files=False, folders=True, only="refiner"),
    "safety_checker": Board(".", "config.safety_check", "safety checker", files=False, folders=True, only="safety_checker"),
}
"""Every kind."""

LIMIT = 8 * 2**30
"""Bytes that are kept of what was loaded: SDXL's refiner and a dozen LoRAs, or three ControlNets, in half precision."""
_SUFFIX = ".safetensors"
_CONFIGURATIONS = ("config.json", "model_index.json")
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ .+-]*")


class Shelf:
    """A folder of things that requests may name. It is looked at anew each time, so what is added or removed counts at once.

    Args:
        folder: `MODELS_DIR`. It need not exist; then there is nothing.
        limit: Bytes that may be kept of what was loaded from it.
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self._folder = folder
        self._kept = Kept(limit)

    def names(self, kind: Kind) -> list[str]:
        """What there is of a kind, sorted. What a link puts there from outside of its folder is not there."""
        return sorted(self._paths(kind))

    def find(self, kind: Kind, name: str) -> Path:
        """Finds one thing.

        Args:
            kind: What it is.
            name: As the request has it. It is compared with the names that there are and never made into a path.

        Returns:
            A `.safetensors` file, or a folder with a configuration and weights.

        Raises:
            ModelUnavailable: There is no such thing. The message names the field and what there is.
        """
        path = self._paths(kind, name).get(name)
        if path is None:
            board, names = BOARDS[kind], self.names(kind)
            there = f"there is {', '.join(names)}" if names else "there is none"
            raise ModelUnavailable(
                f"{board.field}: this worker has no {board.noun} {quote_name(name)}; {there}. "
                "Name another one, leave it out, or ask the operator to add it."
            )
        return path

    def load(self, kind: Kind, name: str, read: Callable[[Path], T], size_of: Callable[[T], int]) -> T:
        """What `read` makes of a thing, kept in memory for the next job that asks for it; loaded again when its file has changed.

        Args:
            kind: What it is.
            name: As the request has it.
            read: Reads the path that `find` gives.
            size_of: How many bytes its result takes.

        Raises:
            ModelUnavailable: There is no such thing, or `read` raised `SettingsError` because it cannot be used.
        """
        try:
            return self._kept.get(self.find(kind, name), read, size_of, form=kind)
        except SettingsError as error:
            board = BOARDS[kind]
            raise ModelUnavailable(
                f"{board.field}: the {board.noun} {name!r} cannot be used: it is damaged, incomplete or made for another model. "
                "Leave it out, or ask the operator to replace it."
            ) from error

    def forget(self) -> None:
        """Lets go of what was kept for the next jobs: memory is short."""
        self._kept.clear()

    def _paths(self, kind: Kind, wanted: str | None = None) -> dict[str, Path]:
        """What there is of a kind, by its name; or of that only what is wanted: a volume may hold many files, and answer slowly."""
        board = BOARDS[kind]
        home = (self._folder / board.folder).resolve()
        entries = [(_name(path), path) for path in sorted(home.iterdir())] if home.is_dir() else []
        return {
            name: path
            for name, path in entries
            if board.only in (None, name)
            and wanted in (None, name)
            and _PLAIN.fullmatch(name)
            and _counts(path, board)
            and _is_within(path, home)
        }


def _name(path: Path) -> str:
    return path.name.removesuffix(_SUFFIX) if path.is_file() else path.name


def _is_within(path: Path, home: Path) -> bool:
    """Whether neither it, nor anything in it, is a link to somewhere else."""
    return all(each.resolve().is_relative_to(home) for each in (path, *(path.rglob("*") if path.is_dir() else ())))


def _counts(path: Path, board: Board) -> bool:
    if path.is_file():
        return board.files and path.suffix == _SUFFIX
    return board.folders and any((path / name).is_file() for name in _CONFIGURATIONS)
