"""The lock file describes weights byte for byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from shared.weights.lock import Lock, LockedFile, differences, lock_path, read_lock, write_lock

CONTENT = b"weights"
FILE = LockedFile("unet/model.safetensors", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
LOCK = Lock("owner/name", "a" * 40, "Apache-2.0", (FILE,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "unet").mkdir()
    (tmp_path / FILE.path).write_bytes(CONTENT)
    write_lock(tmp_path, LOCK)
    return tmp_path


def test_a_lock_round_trips(folder: Path) -> None:
    assert read_lock(folder) == LOCK
    assert LOCK.bytes == len(CONTENT)
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["weights.lock.json"]


def test_the_json_has_the_documented_keys(folder: Path) -> None:
    assert json.loads((folder / "weights.lock.json").read_text()) == {
        "source": "owner/name",
        "revision": "a" * 40,
        "licence": "Apache-2.0",
        "files": [{"path": FILE.path, "bytes": FILE.bytes, "sha256": FILE.sha256}],
    }


def test_without_a_lock_file_there_is_no_lock(tmp_path: Path) -> None:
    assert read_lock(tmp_path) is None


def test_the_lock_of_a_single_file_is_in_its_folder(tmp_path: Path) -> None:
    assert lock_path(tmp_path / "sdxl.safetensors") == tmp_path / "sdxl.weights.lock.json"


def test_intact_weights_have_no_differences(folder: Path) -> None:
    assert differences(folder, LOCK, hashes=True) == []


def test_missing_files_and_wrong_sizes_are_found_without_hashing(folder: Path) -> None:
    path = folder / FILE.path
    path.write_bytes(CONTENT + b"!")
    assert differences(folder, LOCK, hashes=False) == ["unet/model.safetensors has 8 bytes instead of 7"]
    path.unlink()
    assert differences(folder, LOCK, hashes=False) == ["unet/model.safetensors is missing"]


def test_a_changed_byte_is_found_by_hashing(folder: Path) -> None:
    (folder / FILE.path).write_bytes(b"Weights")
    assert differences(folder, LOCK, hashes=False) == []
    assert differences(folder, LOCK, hashes=True) == ["unet/model.safetensors has another SHA-256 than locked"]


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "unet/../../secret"])
def test_path_traversal_in_a_lock_is_rejected(tmp_path: Path, path: str) -> None:
    write_lock(tmp_path, Lock("owner/name", None, "MIT", (LockedFile(path, 1, "0" * 64),)))
    with pytest.raises(ValueError, match="a path leaves the folder"):
        read_lock(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": [1]}'])
def test_an_invalid_lock_is_rejected(tmp_path: Path, content: str) -> None:
    (tmp_path / "weights.lock.json").write_text(content)
    with pytest.raises(ValueError, match=r"weights\.lock\.json is not a valid lock file"):
        read_lock(tmp_path)
