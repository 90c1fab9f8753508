from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from handlers.sdxl.request import SdxlRequest
from shared.errors import ModelUnavailable, ValidationError
from shared.settings import Settings
from shared.weights.addons import ADDON_KINDS, AddonKindName, AddonLibrary, addon_folders


@pytest.fixture
def addons(tmp_path: Path) -> AddonLibrary:
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
    return AddonLibrary(tmp_path / "models")


def sdxl_request(config: dict[str, Any]) -> SdxlRequest:
    return SdxlRequest.parse({"type": "sdxl_generate", "job_id": "j", "user_id": "u", "prompt": "a cat", "config": config}, job_id="j")


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
def test_names_lists_the_installed_addons(addons: AddonLibrary, kind: AddonKindName, names: list[str]) -> None:
    assert addons.names(kind) == names


def test_add_ons_of_several_folders_are_found_and_the_first_of_a_name_counts(addons: AddonLibrary, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    for name in ("ink", "oil"):
        (volume / "loras").mkdir(parents=True, exist_ok=True)
        (volume / f"loras/{name}.safetensors").touch()
    both = AddonLibrary(tmp_path / "nowhere", tmp_path / "models", volume)
    assert both.names("loras") == ["ink", "ink 2.1", "oil"]
    assert both.find("loras", "ink") == addons.find("loras", "ink")
    assert both.find("loras", "oil") == volume / "loras/oil.safetensors"
    with pytest.raises(ModelUnavailable, match=r"Available: ink, ink 2\.1, oil\."):
        both.find("loras", "pen")


def test_a_worker_looks_for_add_ons_in_models_dir_the_image_and_the_volume(tmp_path: Path) -> None:
    settings = Settings(models_dir=tmp_path / "a", baked_models_dir=tmp_path / "b", volume_models_dir=tmp_path / "c")
    assert addon_folders(settings) == (tmp_path / "a", tmp_path / "b", tmp_path / "c")


def test_find_returns_a_file_or_a_folder(addons: AddonLibrary, tmp_path: Path) -> None:
    assert addons.find("loras", "ink 2.1") == tmp_path / "models" / "loras" / "ink 2.1.safetensors"
    assert addons.find("vaes", "sharp") == tmp_path / "models" / "vaes" / "sharp"
    assert addons.find("refiner", "refiner") == tmp_path / "models" / "refiner"


@pytest.mark.parametrize("name", ["oil", "ink.safetensors", "../loras/ink", "../../outside", "/etc/passwd", ".", "", "INK"])
def test_an_addon_that_is_not_installed_is_refused_with_the_available_ones(addons: AddonLibrary, tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelUnavailable, match=r"^LoRA .* is not installed\. Available: ink, ink 2\.1\.$") as caught:
        addons.find("loras", name)
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("kind", ADDON_KINDS)
def test_an_empty_library_names_no_alternatives(tmp_path: Path, kind: AddonKindName) -> None:
    with pytest.raises(ModelUnavailable, match=r"is not installed\. Omit it, or ask the operator to install it\.$"):
        AddonLibrary(tmp_path / "nowhere").find(kind, "ink")


@pytest.mark.parametrize(
    "name",
    [
        "Detail Tweaker XL (v1)",
        "[sdxl] ink & oil, 50 + 50",
        "水墨画 風格_v2",
        "Чернила",
        "ｉｎｋ（改）",
        "encre à l'eau!",
        "don't_{mix}~",
        "style@artist #3 = $1",
        "v1.0.2",
    ],
)
def test_names_that_people_give_their_files_are_found(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "loras"
    folder.mkdir()
    (folder / f"{name}.safetensors").touch()
    addons = AddonLibrary(tmp_path)
    assert addons.names("loras") == [name]
    assert addons.find("loras", name) == folder / f"{name}.safetensors"
    assert sdxl_request({"loras": [{"name": name}]}).loras[0].name == name


@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("named", ["NFC", "NFD"])
def test_a_name_is_found_in_either_unicode_form(tmp_path: Path, written: Literal["NFC", "NFD"], named: Literal["NFC", "NFD"]) -> None:
    (tmp_path / "loras").mkdir()
    path = tmp_path / "loras" / f"{unicodedata.normalize(written, 'がいこつé')}.safetensors"
    path.touch()
    assert AddonLibrary(tmp_path).find("loras", unicodedata.normalize(named, "がいこつé")) == path


@pytest.mark.parametrize(
    "name", ["a..b", ".ink", "a/b", "a\\b", "C:ink", "a\u202eb", "a\u200bb", "a\nb", " ink", "a?", "a%2fb", "a／b", "-ink"]
)
def test_names_that_could_be_paths_or_deceive_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelUnavailable):
        AddonLibrary(tmp_path).find("loras", name)
    with pytest.raises(ValidationError, match=r"config\.loras"):
        sdxl_request({"loras": [{"name": name}]})


def test_a_link_out_of_the_folder_does_not_count(addons: AddonLibrary, tmp_path: Path) -> None:
    (tmp_path / "secret.safetensors").touch()
    (tmp_path / "models" / "loras" / "secret.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (tmp_path / "models" / "vaes" / "loop").symlink_to(tmp_path / "models" / "sdxl", target_is_directory=True)
    assert "secret" not in addons.names("loras")
    assert "loop" not in addons.names("vaes")


def test_the_folder_of_a_kind_may_itself_be_a_link(addons: AddonLibrary, tmp_path: Path) -> None:
    (tmp_path / "models" / "upscalers").symlink_to(tmp_path / "models" / "loras", target_is_directory=True)
    assert addons.names("upscalers") == ["ink", "ink 2.1"]


def test_an_addon_added_later_is_found_at_once(addons: AddonLibrary, tmp_path: Path) -> None:
    (tmp_path / "models" / "loras" / "oil.safetensors").touch()
    assert "oil" in addons.names("loras")


def test_find_lists_only_the_folders_that_it_needs(addons: AddonLibrary, tmp_path: Path) -> None:
    """A volume may hold thousands of files and answer slowly, and every job asks."""
    assert listed_folders(tmp_path, lambda: addons.find("refiner", "refiner")) == ["models", "models/refiner"]
    assert listed_folders(tmp_path, lambda: addons.find("vaes", "sharp")) == ["models/vaes", "models/vaes/sharp"]
    assert listed_folders(tmp_path, lambda: addons.find("loras", "ink")) == ["models/loras"]


def listed_folders(root: Path, action: Callable[[], object]) -> list[str]:
    """The folders below `root` whose entries an action lists."""
    listed: list[Path] = []
    active = True

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if active and event in ("os.listdir", "os.scandir"):
            listed.append(Path(arguments[0]))

    sys.addaudithook(note)  # audit hooks cannot be removed
    action()
    active = False
    return sorted({path.relative_to(root).as_posix() for path in listed if path.is_relative_to(root)})
