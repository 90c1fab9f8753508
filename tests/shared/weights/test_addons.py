from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ModelUnavailable
from shared.weights.addons import BOARDS, Kind, Shelf


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    for name in (
        "loras/ink.safetensors",
        "loras/ink 2.1.safetensors",
        "loras/README.md",
        "loras/.half.safetensors",
        "vaes/soft.safetensors",
        "vaes/sharp/config.json",
        "vaes/empty/README.md",
        "controlnets/canny/config.json",
        "controlnets/stray.safetensors",
        "ip_adapters/plus.safetensors",
        "ip_adapters/image_encoder/config.json",
        "refiner/model_index.json",
        "sdxl/model_index.json",
    ):
        path = tmp_path / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return Shelf(tmp_path / "models")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("loras", ["ink", "ink 2.1"]),
        ("vaes", ["sharp", "soft"]),
        ("controlnets", ["canny"]),
        ("ip_adapters", ["plus"]),
        ("image_encoder", ["image_encoder"]),
        ("refiner", ["refiner"]),
        ("upscalers", []),
    ],
)
def test_a_shelf_names_what_its_folders_hold(shelf: Shelf, kind: Kind, names: list[str]) -> None:
    assert shelf.names(kind) == names


def test_what_is_named_is_found_as_a_file_or_a_folder(shelf: Shelf, tmp_path: Path) -> None:
    assert shelf.find("loras", "ink 2.1") == tmp_path / "models" / "loras" / "ink 2.1.safetensors"
    assert shelf.find("vaes", "sharp") == tmp_path / "models" / "vaes" / "sharp"
    assert shelf.find("refiner", "refiner") == tmp_path / "models" / "refiner"


@pytest.mark.parametrize("name", ["oil", "ink.safetensors", "../loras/ink", "../../outside", "/etc/passwd", ".", "", "INK"])
def test_what_is_not_there_is_refused_with_its_field_and_what_there_is(shelf: Shelf, tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelUnavailable, match=r"^config\.loras: this worker has no LoRA .*; there is ink, ink 2\.1\.") as caught:
        shelf.find("loras", name)
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("kind", BOARDS)
def test_an_empty_shelf_says_that_there_is_nothing(tmp_path: Path, kind: Kind) -> None:
    with pytest.raises(ModelUnavailable, match="there is none"):
        Shelf(tmp_path / "nowhere").find(kind, "ink")


def test_a_link_out_of_the_folder_is_not_there(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "secret.safetensors").touch()
    (tmp_path / "models" / "loras" / "secret.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (tmp_path / "models" / "vaes" / "loop").symlink_to(tmp_path / "models" / "sdxl", target_is_directory=True)
    assert "secret" not in shelf.names("loras")
    assert "loop" not in shelf.names("vaes")


def test_a_folder_that_is_itself_a_link_is_the_operators_choice(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "models" / "upscalers").symlink_to(tmp_path / "models" / "loras", target_is_directory=True)
    assert shelf.names("upscalers") == ["ink", "ink 2.1"]


def test_what_is_added_later_counts_at_once(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "models" / "loras" / "oil.safetensors").touch()
    assert "oil" in shelf.names("loras")


def test_what_is_looked_for_is_all_that_is_looked_through(shelf: Shelf, tmp_path: Path) -> None:
    """A volume may hold thousands of files and answer slowly, and every job asks."""
    assert entered(tmp_path, lambda: shelf.find("refiner", "refiner")) == ["models", "models/refiner"]
    assert entered(tmp_path, lambda: shelf.find("vaes", "sharp")) == ["models/vaes", "models/vaes/sharp"]
    assert entered(tmp_path, lambda: shelf.find("loras", "ink")) == ["models/loras"]


def entered(root: Path, look: Callable[[], object]) -> list[str]:
    """The folders below `root` whose entries are listed by a look."""
    listed: list[Path] = []
    looking = True

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if looking and event in ("os.listdir", "os.scandir"):
            listed.append(Path(arguments[0]))

    sys.addaudithook(note)  # which cannot be taken off again
    look()
    looking = False
    return sorted({path.relative_to(root).as_posix() for path in listed if path.is_relative_to(root)})
