"""Downloads one set of weights: fetches only missing files, verifies each one, and writes the lock file."""

from __future__ import annotations

import glob
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shared.weights.hub import DownloadError, PublishedFile, PublishedWeights
from shared.weights.lock import Lock, LockedFile, differences, lock_path, read_lock, sha256_of, write_lock
from shared.weights.parallel import OnProgress, run_transfers
from shared.weights.partial_file import received_bytes
from shared.weights.transfer import copy, fetch, partial_path

THREADS = 4
"""Files that are downloaded at once."""


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """The transfers that one set of weights needs.

    Attributes:
        published: The set, with all of its files.
        target: Its folder, or its single `.safetensors` file.
        missing: The files that are missing or differ from the published ones, the largest first.
        received: Bytes of the missing ones that an interrupted run left.
    """

    published: PublishedWeights
    target: Path
    missing: tuple[PublishedFile, ...]
    received: int

    @property
    def folder(self) -> Path:
        """The folder that the paths of the files are relative to."""
        return lock_path(self.target).parent

    @property
    def bytes(self) -> int:
        """The total size of the missing files."""
        return sum(file.bytes for file in self.missing)


def verified_lock(repo: str, revision: str | None, target: Path) -> Lock | None:
    """Returns the lock of weights that are complete: every file with the locked hash. Does not contact the hub.

    Args:
        repo: Where they come from.
        revision: The commit; None accepts every one.
        target: Their folder, or their single `.safetensors` file.
    """
    try:
        lock = read_lock(target)
    except ValueError:
        return None
    if lock is None or lock.source != repo or revision not in (None, lock.revision):
        return None
    return None if differences(target, lock, hashes=True) else lock


def plan_download(published: PublishedWeights, target: Path) -> DownloadPlan:
    """Compares the files on this machine with those on the hub.

    Args:
        published: The set on the hub.
        target: Its folder, or its single `.safetensors` file.

    Raises:
        DownloadError: The disk lacks space for the missing files.
    """
    folder = lock_path(target).parent
    with ThreadPoolExecutor(THREADS) as threads:
        present = list(threads.map(lambda file: file.matches(folder / file.path), published.files))
    missing = [file for file, is_present in zip(published.files, present, strict=True) if not is_present]
    received = sum(received_bytes(partial_path(file, folder / file.path)) for file in missing)
    plan = DownloadPlan(published, target, tuple(sorted(missing, key=lambda file: -file.bytes)), received)
    check_space(folder, plan.bytes - plan.received)
    return plan


def run_download(plan: DownloadPlan, on_progress: OnProgress, *, local_copies: Sequence[Path] = (), threads: int = THREADS) -> Lock:
    """Transfers the missing files and writes the lock.

    Args:
        plan: The transfers.
        on_progress: Receives the bytes as they arrive, on several threads.
        local_copies: Other folders with these weights on this machine. Their files are copied instead of downloaded.
        threads: Files that are transferred at once.

    Raises:
        DownloadError: A transfer failed. The other files are kept, and a later run resumes.
        OSError: A file could not be written.
    """
    from filelock import FileLock

    published, folder = plan.published, plan.folder
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".download.lock"):
        run_transfers([partial(_transfer, file, folder, local_copies) for file in plan.missing], on_progress, threads)
        _delete_leftovers(plan)
        entries = tuple(LockedFile(file.path, file.bytes, file.sha256 or sha256_of(folder / file.path)) for file in published.files)
        lock = Lock(published.repo, published.revision, published.licence, entries)
        write_lock(plan.target, lock)
    return lock


def _delete_leftovers(plan: DownloadPlan) -> None:
    """Deletes incomplete files of other versions."""
    files = [plan.folder / file.path for file in plan.published.files]
    for leftover in (path for file in files for path in file.parent.glob(f"{glob.escape(file.name)}.*.partial*")):
        leftover.unlink()


def check_space(folder: Path, needed: int) -> None:
    """Raises `DownloadError` if the disk of a folder, which need not exist yet, has fewer than `needed` bytes free."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DownloadError(f"{folder} needs {needed / 1e9:.2f} GB, and its disk has {free / 1e9:.2f} GB free.")


def _transfer(file: PublishedFile, folder: Path, local_copies: Sequence[Path], on_progress: OnProgress) -> None:
    target = folder / file.path
    if file.matches(target):  # another process downloaded it after the plan was made
        return
    if not copy(file, [place / file.path for place in local_copies], target, on_progress):
        fetch(file, target, on_progress)
