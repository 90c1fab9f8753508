"""The revision of a folder of weights, which is read and never guessed."""

from __future__ import annotations

from pathlib import Path

from handlers.chat.revision import revision_of
from shared.weights.lock import Lock, write_lock

COMMIT = "0123456789" * 4


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_the_revision_is_read_from_the_lock_file(tmp_path: Path) -> None:
    write_lock(tmp_path, Lock("owner/name", COMMIT, "MIT", ()))
    assert revision_of(tmp_path) == COMMIT


def test_the_revision_is_the_name_of_a_cache_snapshot_even_through_a_symlink(tmp_path: Path) -> None:
    snapshot = folder(tmp_path / "models--owner--name" / "snapshots" / COMMIT)
    (tmp_path / "link").symlink_to(snapshot)
    assert [revision_of(path) for path in (snapshot, tmp_path / "link")] == [COMMIT, COMMIT]


def test_the_revision_of_other_folders_is_unknown(tmp_path: Path) -> None:
    for path in (folder(tmp_path / "qwen_instruct"), folder(tmp_path / COMMIT), folder(tmp_path / "snapshots" / "main")):
        assert revision_of(path) is None


def test_an_unreadable_lock_file_gives_no_revision(tmp_path: Path) -> None:
    write_lock(tmp_path, Lock("owner/name", COMMIT, "MIT", ()))
    (lock,) = tmp_path.iterdir()
    lock.write_text("{")
    assert revision_of(tmp_path) is None
