from __future__ import annotations

from pathlib import Path

import pytest

from shared.weights.addons import Shelf
from shared.weights.lru_cache import Kept


class Reader:
    """Reads files and counts how often."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, path: Path) -> bytes:
        self.read.append(path.name)
        return path.read_bytes()


def write(folder: Path, *names: str, size: int = 10) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.write_bytes(b"x" * size)
    return paths


def test_what_was_read_is_not_read_again(tmp_path: Path) -> None:
    kept, read = Kept(100), Reader()
    (path,) = write(tmp_path, "a")
    assert kept.get(path, read, len) is kept.get(path, read, len)
    assert read.read == ["a"]


def test_what_has_not_been_used_for_longest_is_forgotten_first(tmp_path: Path) -> None:
    kept, read = Kept(25), Reader()
    one, two, three = write(tmp_path, "a", "b", "c")
    for path in (one, two, one, three, one, two):
        kept.get(path, read, len)
        assert kept.size <= 25
    assert read.read == ["a", "b", "c", "b"]


def test_what_alone_exceeds_the_bound_is_kept_until_the_next(tmp_path: Path) -> None:
    kept, read = Kept(5), Reader()
    one, two = write(tmp_path, "a", "b")
    for path in (one, one, two):
        kept.get(path, read, len)
    assert (read.read, kept.size) == (["a", "b"], 10)


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    kept, read = Kept(100), Reader()
    (path,) = write(tmp_path, "a")
    kept.get(path, read, len)
    write(tmp_path, "a", size=11)
    assert len(kept.get(path, read, len)) == 11


def test_a_folder_in_which_a_file_was_written_over_is_read_again(tmp_path: Path) -> None:
    """Its own time is that of its entries, which are the same ones."""
    kept, folder = Kept(100), tmp_path / "canny"
    (folder / "unet").mkdir(parents=True)
    (path,) = write(folder / "unet", "weights")
    kept.get(folder, lambda _: path.read_bytes(), len)
    write(folder / "unet", "weights", size=11)
    assert len(kept.get(folder, lambda _: path.read_bytes(), len)) == 11


def test_nothing_is_kept_of_what_cannot_be_read(tmp_path: Path) -> None:
    kept = Kept(100)
    (path,) = write(tmp_path, "a")

    def fail(_: Path) -> bytes:
        raise EOFError

    with pytest.raises(EOFError):
        kept.get(path, fail, len)
    assert kept.size == 0


def test_a_shelf_keeps_what_was_loaded_from_it(tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    write(tmp_path / "loras", "a.safetensors")
    shelf, read = Shelf(tmp_path), Reader()
    assert shelf.load("loras", "a", read, len) is shelf.load("loras", "a", read, len)
    assert read.read == ["a.safetensors"]
