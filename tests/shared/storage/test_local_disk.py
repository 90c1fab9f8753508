"""Storage on local disk."""

import hashlib
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import UploadError
from shared.settings import Settings, SettingsError
from shared.storage import open_storage
from shared.storage.local_disk import LocalDisk


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_local_disk_is_the_default_storage(folder: Path) -> None:
    storage = open_storage(Settings(output_dir=folder))
    assert isinstance(storage, LocalDisk)
    assert storage.keeps_callbacks


def test_stored_object_is_written_and_described(folder: Path) -> None:
    stored = LocalDisk(folder).put("u/j/0.png", b"an image", "image/png")
    assert (folder / "u/j/0.png").read_bytes() == b"an image"
    assert (stored.key, stored.size, stored.sha256) == ("u/j/0.png", 8, hashlib.sha256(b"an image").hexdigest())


def test_file_content_is_streamed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(bytes(range(256)) * 9000)
    stored = LocalDisk(folder).put("u/j/0.mp4", tmp_path / "clip", "video/mp4")
    assert (folder / "u/j/0.mp4").read_bytes() == (tmp_path / "clip").read_bytes()
    assert (stored.size, stored.sha256) == (2_304_000, hashlib.sha256(bytes(range(256)) * 9000).hexdigest())


def test_put_overwrites_an_existing_object(folder: Path) -> None:
    storage = LocalDisk(folder)
    storage.put("u/j/0.png", b"first and longer", "image/png")
    storage.put("u/j/0.png", b"second", "image/png")
    assert (folder / "u/j/0.png").read_bytes() == b"second"
    assert files_of(folder) == ["u/j/0.png"]


def test_failed_put_keeps_the_old_object_and_no_partial_file(folder: Path, tmp_path: Path) -> None:
    storage = LocalDisk(folder)
    storage.put("u/j/0.png", b"old", "image/png")
    with pytest.raises(UploadError, match="could not be written") as caught:
        storage.put("u/j/0.png", tmp_path / "missing", "image/png")
    assert (folder / "u/j/0.png").read_bytes() == b"old"
    assert files_of(folder) == ["u/j/0.png"]
    assert caught.value.retryable
    assert str(tmp_path) not in caught.value.message


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Limits files to 100 000 bytes, which fails like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_disk")
def test_full_disk_keeps_the_old_object_and_no_partial_file(folder: Path) -> None:
    storage = LocalDisk(folder)
    storage.put("u/j/0.mp4", b"old", "video/mp4")
    with pytest.raises(UploadError, match="File too large"):
        storage.put("u/j/0.mp4", bytes(300_000), "video/mp4")
    assert (folder / "u/j/0.mp4").read_bytes() == b"old"
    assert files_of(folder) == ["u/j/0.mp4"]


def test_concurrent_writers_of_one_key_do_not_mix_bytes(folder: Path) -> None:
    storage = LocalDisk(folder)
    contents = [bytes([i]) * 300_000 for i in range(8)]
    threads = [threading.Thread(target=storage.put, args=("u/j/0.png", content, "image/png")) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (folder / "u/j/0.png").read_bytes() in contents
    assert files_of(folder) == ["u/j/0.png"]


@pytest.mark.parametrize("key", ["../escaped.png", "u/../../escaped.png", "/etc/escaped.png", "u//0.png", "u/j/.."])
def test_path_traversal_in_a_key_is_refused_before_writing(folder: Path, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        LocalDisk(folder).put(key, b"x", "image/png")
    assert not folder.exists()


def test_check_leaves_no_file(folder: Path) -> None:
    LocalDisk(folder).check(())
    assert files_of(folder) == []


def test_check_reports_a_folder_that_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingsError, match="OUTPUT_DIR is not writable"):
        LocalDisk(tmp_path / "file" / "out").check(())
