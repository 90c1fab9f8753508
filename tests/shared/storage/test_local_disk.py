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


def test_without_a_supabase_url_results_go_to_disk(folder: Path) -> None:
    storage = open_storage(Settings(output_dir=folder))
    assert isinstance(storage, LocalDisk)
    assert storage.keeps_callbacks


def test_what_is_stored_is_there_and_is_described(folder: Path) -> None:
    stored = LocalDisk(folder).put("u/j/0.png", b"a picture", "image/png")
    assert (folder / "u/j/0.png").read_bytes() == b"a picture"
    assert (stored.key, stored.size, stored.sha256) == ("u/j/0.png", 9, hashlib.sha256(b"a picture").hexdigest())


def test_a_file_is_stored_like_its_bytes(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(bytes(range(256)) * 9000)
    stored = LocalDisk(folder).put("u/j/0.mp4", tmp_path / "clip", "video/mp4")
    assert (folder / "u/j/0.mp4").read_bytes() == (tmp_path / "clip").read_bytes()
    assert (stored.size, stored.sha256) == (2_304_000, hashlib.sha256(bytes(range(256)) * 9000).hexdigest())


def test_the_same_key_is_overwritten(folder: Path) -> None:
    storage = LocalDisk(folder)
    storage.put("u/j/0.png", b"first and longer", "image/png")
    storage.put("u/j/0.png", b"second", "image/png")
    assert (folder / "u/j/0.png").read_bytes() == b"second"
    assert files_of(folder) == ["u/j/0.png"]


def test_a_failure_leaves_the_old_object_and_nothing_else(folder: Path, tmp_path: Path) -> None:
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
    """Files of more than 100 000 bytes fail to be written, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_disk")
def test_a_disk_that_is_full_keeps_the_old_object_and_nothing_else(folder: Path) -> None:
    storage = LocalDisk(folder)
    storage.put("u/j/0.mp4", b"old", "video/mp4")
    with pytest.raises(UploadError, match="File too large"):
        storage.put("u/j/0.mp4", bytes(300_000), "video/mp4")
    assert (folder / "u/j/0.mp4").read_bytes() == b"old"
    assert files_of(folder) == ["u/j/0.mp4"]


def test_writers_of_one_key_never_mix_their_bytes(folder: Path) -> None:
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
def test_a_key_that_leads_elsewhere_is_refused_before_anything_is_written(folder: Path, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        LocalDisk(folder).put(key, b"x", "image/png")
    assert not folder.exists()


def test_the_check_leaves_no_trace(folder: Path) -> None:
    LocalDisk(folder).check()
    assert files_of(folder) == []


def test_a_folder_that_cannot_be_written_to_is_found_at_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingsError, match="OUTPUT_DIR cannot be written to"):
        LocalDisk(tmp_path / "file" / "out").check()
