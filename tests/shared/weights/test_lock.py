"""The lock beside weights says what they are, byte for byte."""

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


def test_what_is_written_is_read(folder: Path) -> None:
    assert read_lock(folder) == LOCK
    assert LOCK.bytes == len(CONTENT)
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["weights.lock.json"]


def test_the_file_has_what_a_reader_of_another_language_needs(folder: Path) -> None:
    assert json.loads((folder / "weights.lock.json").read_text()) == {
        "source": "owner/name",
        "revision": "a" * 40,
        "licence": "Apache-2.0",
        "files": [{"path": FILE.path, "bytes": FILE.bytes, "sha256": FILE.sha256}],
    }


def test_weights_without_a_lock_have_none(tmp_path: Path) -> None:
    assert read_lock(tmp_path) is None


def test_the_lock_of_a_single_file_lies_beside_it(tmp_path: Path) -> None:
    assert lock_path(tmp_path / "sdxl.safetensors") == tmp_path / "sdxl.weights.lock.json"


def test_weights_that_are_as_locked_do_not_differ(folder: Path) -> None:
    assert differences(folder, LOCK, hashes=True) == []


def test_a_missing_file_and_a_wrong_size_show_without_reading_the_weights(folder: Path) -> None:
    path = folder / FILE.path
    path.write_bytes(CONTENT + b"!")
    assert differences(folder, LOCK, hashes=False) == ["unet/model.safetensors has 8 bytes instead of 7"]
    path.unlink()
    assert differences(folder, LOCK, hashes=False) == ["unet/model.safetensors is missing"]


def test_a_changed_byte_shows_when_hashes_are_compared(folder: Path) -> None:
    (folder / FILE.path).write_bytes(b"Weights")
    assert differences(folder, LOCK, hashes=False) == []
    assert differences(folder, LOCK, hashes=True) == ["unet/model.safetensors does not have the SHA-256 of its lock"]


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "unet/../../secret"])
def test_a_lock_that_leaves_its_folder_is_refused(tmp_path: Path, path: str) -> None:
    write_lock(tmp_path, Lock("owner/name", None, "MIT", (LockedFile(path, 1, "0" * 64),)))
    with pytest.raises(ValueError, match="a path leaves the folder"):
        read_lock(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": [1]}'])
def test_a_broken_lock_is_refused_with_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "weights.lock.json").write_text(content)
    with pytest.raises(ValueError, match=r"weights\.lock\.json is not a lock of weights .* download the weights again"):
        read_lock(tmp_path)
