"""Which published commit weights are: said where somebody has written it down, and never guessed."""

from __future__ import annotations

from pathlib import Path

from shared.weights.lock import Lock, write_lock
from shared.weights.revision import revision_of

COMMIT = "0123456789" * 4


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_a_lock_says_it(tmp_path: Path) -> None:
    write_lock(tmp_path, Lock("owner/name", COMMIT, "MIT", ()))
    assert revision_of(tmp_path) == COMMIT


def test_a_snapshot_of_a_cache_is_named_by_it_also_through_a_link(tmp_path: Path) -> None:
    snapshot = folder(tmp_path / "models--owner--name" / "snapshots" / COMMIT)
    (tmp_path / "link").symlink_to(snapshot)
    assert [revision_of(path) for path in (snapshot, tmp_path / "link")] == [COMMIT, COMMIT]


def test_of_other_folders_it_is_not_known(tmp_path: Path) -> None:
    for path in (folder(tmp_path / "qwen_instruct"), folder(tmp_path / COMMIT), folder(tmp_path / "snapshots" / "main")):
        assert revision_of(path) is None


def test_a_lock_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    write_lock(tmp_path, Lock("owner/name", COMMIT, "MIT", ()))
    (lock,) = tmp_path.iterdir()
    lock.write_text("{")
    assert revision_of(tmp_path) is None
