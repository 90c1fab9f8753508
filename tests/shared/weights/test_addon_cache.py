"""Loaded add-ons are cached in memory, least recently used first out, within a bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import ModelUnavailable
from shared.weights.addons import AddonLibrary
from shared.weights.errors import WeightsError


class Reader:
    """Reads files and records their names."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, path: Path) -> bytes:
        self.names.append(path.stem)
        return path.read_bytes()


def write(models: Path, *names: str, size: int = 10) -> None:
    (models / "loras").mkdir(exist_ok=True)
    for name in names:
        (models / "loras" / f"{name}.safetensors").write_bytes(b"x" * size)


def test_a_loaded_addon_is_not_read_again(tmp_path: Path) -> None:
    addons, read = AddonLibrary(tmp_path), Reader()
    write(tmp_path, "a")
    assert addons.load("loras", "a", read, len) is addons.load("loras", "a", read, len)
    assert read.names == ["a"]


def test_the_least_recently_used_addon_is_evicted_first(tmp_path: Path) -> None:
    addons, read = AddonLibrary(tmp_path, limit=25), Reader()
    write(tmp_path, "a", "b", "c")
    for name in ("a", "b", "a", "c", "a", "b"):
        addons.load("loras", name, read, len)
    assert read.names == ["a", "b", "c", "b"]


def test_an_addon_larger_than_the_cache_evicts_all_others_and_is_not_cached(tmp_path: Path) -> None:
    addons, read = AddonLibrary(tmp_path, limit=15), Reader()
    write(tmp_path, "small")
    write(tmp_path, "large", size=16)
    for name in ("small", "large", "large", "small"):
        addons.load("loras", name, read, len)
    assert read.names == ["small", "large", "large", "small"]


def test_clearing_the_cache_evicts_every_addon(tmp_path: Path) -> None:
    addons, read = AddonLibrary(tmp_path), Reader()
    write(tmp_path, "a")
    addons.load("loras", "a", read, len)
    addons.clear_cache()
    addons.load("loras", "a", read, len)
    assert read.names == ["a", "a"]


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    addons, read = AddonLibrary(tmp_path), Reader()
    write(tmp_path, "a")
    addons.load("loras", "a", read, len)
    write(tmp_path, "a", size=11)
    assert len(addons.load("loras", "a", read, len)) == 11


def test_a_folder_with_an_overwritten_file_is_read_again(tmp_path: Path) -> None:
    """Overwriting a file does not change the modification time of its folder."""
    addons, folder = AddonLibrary(tmp_path), tmp_path / "controlnets" / "canny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    weights = folder / "weights"
    for size in (10, 11):
        weights.write_bytes(b"x" * size)
        assert len(addons.load("controlnets", "canny", lambda _: weights.read_bytes(), len)) == size


@pytest.mark.parametrize("error", [EOFError(), WeightsError("loras/a", "it is damaged")], ids=["other", "weights"])
def test_a_failed_load_is_not_cached(tmp_path: Path, error: Exception) -> None:
    addons, read = AddonLibrary(tmp_path), Reader()
    write(tmp_path, "a")

    def fail(_: Path) -> bytes:
        raise error

    with pytest.raises((EOFError, ModelUnavailable)):
        addons.load("loras", "a", fail, len)
    addons.load("loras", "a", read, len)
    assert read.names == ["a"]


def test_the_reason_of_a_weights_error_reaches_the_caller_without_the_detail(tmp_path: Path) -> None:
    addons = AddonLibrary(tmp_path)
    write(tmp_path, "a")

    def fail(path: Path) -> bytes:
        raise WeightsError("loras/a", "it is damaged", detail=f"{path} is damaged")

    with pytest.raises(ModelUnavailable) as caught:
        addons.load("loras", "a", fail, len)
    assert caught.value.message == "LoRA 'a' cannot be used: it is damaged. Omit it, or ask the operator to replace it."
