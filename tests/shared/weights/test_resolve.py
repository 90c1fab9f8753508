from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared.settings import Settings, SettingsError
from shared.weights.catalogue import QWEN_BASE, SDXL
from shared.weights.resolve import LOCATIONS, find_optional, resolve, weights_name

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Machine:
    """The places where weights may be, all empty at first."""

    def __init__(self, root: Path, complete: Path) -> None:
        self.root, self.complete = root, complete
        self.settings = self.with_settings()

    def with_settings(self, **more: Any) -> Settings:
        places = {"models_dir": "models", "baked_models_dir": "baked", "huggingface_cache": "hub", "volume_models_dir": "volume"}
        return Settings.model_validate({name: self.root / folder for name, folder in places.items()} | more)

    def put(self, place: str) -> Path:
        return Path(shutil.copytree(self.complete, self.root / place))

    def put_in_cache(self, commit: str, *, main: str | None) -> Path:
        repository = self.root / "hub" / "models--Qwen--Qwen2.5-7B"
        if main is not None:
            (repository / "refs").mkdir(parents=True, exist_ok=True)
            (repository / "refs" / "main").write_text(main, encoding="utf-8")
        return Path(shutil.copytree(self.complete, repository / "snapshots" / commit))


@pytest.fixture
def machine(tmp_path: Path, tiny_models: Path) -> Machine:
    return Machine(tmp_path, tiny_models / "qwen_base")


def put_explicit(machine: Machine) -> Path:
    return machine.put("elsewhere")


def put_in_models_dir(machine: Machine) -> Path:
    return machine.put("models/qwen_base")


def put_in_image(machine: Machine) -> Path:
    return machine.put("baked/qwen_base")


def put_in_cached_models(machine: Machine) -> Path:
    return machine.put_in_cache(COMMIT, main=COMMIT)


def put_on_volume(machine: Machine) -> Path:
    return machine.put("volume/qwen_base")


IN_ORDER = (put_in_models_dir, put_in_image, put_in_cached_models, put_on_volume)


@pytest.mark.parametrize("first", range(len(IN_ORDER)), ids=[put.__name__ for put in IN_ORDER])
def test_the_first_location_with_the_weights_is_used(machine: Machine, first: int) -> None:
    folders = [put(machine) for put in IN_ORDER[first:]]
    assert resolve(QWEN_BASE, machine.settings) == folders[0]


def test_an_explicit_path_takes_precedence(machine: Machine) -> None:
    for put in IN_ORDER:
        put(machine)
    explicit = put_explicit(machine)
    assert resolve(QWEN_BASE, machine.with_settings(qwen_base_model=explicit)) == explicit


def test_an_incomplete_explicit_path_is_rejected_without_an_alternative(machine: Machine) -> None:
    put_in_models_dir(machine)
    explicit = put_explicit(machine)
    (explicit / "config.json").unlink()
    with pytest.raises(SettingsError, match=r"QWEN_BASE_MODEL must name a complete transformers folder; got .*lacks config\.json"):
        resolve(QWEN_BASE, machine.with_settings(qwen_base_model=explicit))


def test_an_incomplete_folder_is_skipped(machine: Machine) -> None:
    (put_in_models_dir(machine) / "model-00001-of-00002.safetensors").unlink()
    whole = put_on_volume(machine)
    assert resolve(QWEN_BASE, machine.settings) == whole


def test_the_pinned_snapshot_in_the_cache_is_preferred(machine: Machine) -> None:
    put_in_cached_models(machine)
    pinned = machine.put_in_cache(str(QWEN_BASE.revision), main=None)
    assert resolve(QWEN_BASE, machine.settings) == pinned


def test_without_the_pinned_snapshot_the_one_of_main_is_used(machine: Machine) -> None:
    machine.put_in_cache("f" * 40, main=None)
    named = machine.put_in_cache(COMMIT, main=COMMIT + "\n")
    assert resolve(QWEN_BASE, machine.settings) == named


@pytest.mark.parametrize("main", ["", "../../../models/qwen_base", "main"])
def test_a_cache_whose_main_is_not_a_commit_counts_as_empty(machine: Machine, main: str) -> None:
    machine.put_in_cache(COMMIT, main=main)
    with pytest.raises(SettingsError, match=r"cached models .*: none"):
        resolve(QWEN_BASE, machine.settings)


def test_a_cache_of_links_to_blobs_is_accepted(machine: Machine) -> None:
    snapshot = put_in_cached_models(machine)
    blobs = snapshot.parents[1] / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(snapshot.iterdir())):
        blob = path.rename(blobs / str(number))
        path.symlink_to(os.path.relpath(blob, snapshot))
    assert resolve(QWEN_BASE, machine.settings) == snapshot
    (blobs / "0").unlink()
    with pytest.raises(SettingsError, match=r"lacks config\.json"):
        resolve(QWEN_BASE, machine.settings)


def test_missing_weights_raise_an_error_with_every_location_and_advice(machine: Machine) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve(SDXL, machine.settings)
    message = str(caught.value)
    assert "'sdxl' (stabilityai/stable-diffusion-xl-base-1.0) were not found" in message
    assert "SDXL_MODEL: not set" in message
    assert [location.name for location in LOCATIONS if f"{location.name}: " not in message] == []
    assert f"{machine.root / 'models' / 'sdxl'} (no such folder)" in message
    assert "Set SDXL_MODEL to a complete diffusers folder" in message
    assert "ALLOW_DOWNLOADS=1" in message


def test_the_error_lists_the_files_that_a_folder_lacks(machine: Machine) -> None:
    folder = put_in_models_dir(machine)
    for name in ("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(
        SettingsError, match=r"lacks config\.json, model-00001-of-00002\.safetensors, model-00002-of-00002\.safetensors and 2 more"
    ):
        resolve(QWEN_BASE, machine.settings)


def test_weights_without_a_pinned_revision_are_never_downloaded(machine: Machine) -> None:
    unpinned = replace(QWEN_BASE, revision=None)
    with pytest.raises(SettingsError, match=r"pins no revision of Qwen/Qwen2\.5-7B: pin one"):
        resolve(unpinned, machine.with_settings(allow_downloads=True))


def test_weights_without_a_pinned_revision_are_used_if_found(machine: Machine) -> None:
    cached = put_in_cached_models(machine)
    assert resolve(replace(QWEN_BASE, revision=None), machine.settings) == cached


def test_missing_optional_weights_are_none_and_not_downloaded(machine: Machine) -> None:
    assert find_optional(QWEN_BASE, machine.with_settings(allow_downloads=True)) is None
    assert not (machine.root / "models").exists()


def test_optional_weights_are_found_in_the_same_locations(machine: Machine) -> None:
    image = put_in_image(machine)
    assert find_optional(QWEN_BASE, machine.settings) == image
    explicit = put_explicit(machine)
    assert find_optional(QWEN_BASE, machine.with_settings(qwen_base_model=explicit)) == explicit


def test_an_explicit_path_to_optional_weights_must_be_complete(machine: Machine) -> None:
    with pytest.raises(SettingsError, match=r"QWEN_BASE_MODEL must name a complete"):
        find_optional(QWEN_BASE, machine.with_settings(qwen_base_model=machine.root / "nothing"))


@pytest.mark.parametrize("put", IN_ORDER, ids=lambda put: put.__name__)
def test_the_log_names_the_location_and_never_the_path(machine: Machine, put: Callable[[Machine], Path]) -> None:
    put(machine)
    with capture_logs() as lines:
        resolve(QWEN_BASE, machine.settings)
    assert [(line["event"], line["model"]) for line in lines] == [("weights found", "qwen_base")]
    assert lines[0]["location"] in {location.name for location in LOCATIONS}
    assert str(machine.root) not in str(lines)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models/lustifySDXLNSFWSFW_v20.safetensors", "lustifySDXLNSFWSFW_v20"),
        ("/models/juggernaut v9.1.safetensors", "juggernaut v9.1"),
        ("/opt/models/sdxl", "sdxl"),
        ("/opt/models/sdxl/", "sdxl"),
        ("/models/my.merge-v2/../other", "other"),
        ("/runpod-volume/huggingface-cache/hub/models--Wan-AI--Wan2.1-T2V-1.3B-Diffusers/snapshots/0fad780a", "Wan2.1-T2V-1.3B-Diffusers"),
        ("/hub/models--gpt2/snapshots/0fad780a", "gpt2"),
        ("/hub/models--RunDiffusion--Juggernaut/snapshots/0fad780a/Juggernaut_X.safetensors", "Juggernaut_X"),
    ],
)
def test_payloads_name_the_file_folder_or_repository_of_the_weights_and_no_path(path: str, name: str) -> None:
    assert weights_name(Path(path)) == name
