"""From an entry of the catalogue to a complete folder with its lock: only what is missing comes, and nothing that is not as published."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shared.weights.catalogue import Weights
from shared.weights.hub import DownloadError, PublishedFile, list_files
from shared.weights.lock import Lock, LockedFile, differences, read_lock, sha256_of, write_lock
from shared.weights.transfer import Advance, copy, fetch, partial_path

THREADS = 4
"""Files at a time. A hub's host gives one connection less than a network has."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be done for one entry of the catalogue.

    Attributes:
        weights: The entry.
        folder: Where it goes.
        files: All files that belong there.
        missing: Those of them that are not there, or not as published; the largest first.
        came: Bytes of the missing ones that an earlier run has left.
    """

    weights: Weights
    folder: Path
    files: tuple[PublishedFile, ...]
    missing: tuple[PublishedFile, ...]
    came: int

    @property
    def bytes(self) -> int:
        """What the missing files take."""
        return sum(file.bytes for file in self.missing)


def locked(weights: Weights, folder: Path) -> Lock | None:
    """The lock of a folder that is complete: of this revision, and every file has the hash that is locked. No hub is asked."""
    try:
        lock = read_lock(folder)
    except ValueError:
        return None
    if lock is None or (lock.source, lock.revision) != (weights.repo, weights.revision):
        return None
    return None if differences(folder, lock, hashes=True) else lock


def plan(weights: Weights, folder: Path) -> Plan:
    """Asks the hub what belongs into a folder, and looks at what is there.

    Raises:
        DownloadError: The hub cannot be asked, or the disk has no room for what is missing.
    """
    files = list_files(weights)
    with ThreadPoolExecutor(THREADS) as threads:
        there = list(threads.map(lambda file: file.matches(folder / file.path), files))
    missing = [file for file, is_there in zip(files, there, strict=True) if not is_there]
    partials = [partial_path(file, folder / file.path) for file in missing]
    made = Plan(
        weights,
        folder,
        tuple(files),
        tuple(sorted(missing, key=lambda file: -file.bytes)),
        sum(path.stat().st_size for path in partials if path.is_file()),
    )
    check_space(folder, made.bytes - made.came)
    return made


def carry_out(plan: Plan, advance: Advance, *, nearby: Sequence[Path] = (), threads: int = THREADS) -> Lock:
    """Brings what is missing, and writes the lock.

    Args:
        plan: What has to be done.
        advance: Told of bytes as they come, from several threads.
        nearby: Other folders of these weights on this machine. What they have is copied instead of downloaded.
        threads: Files at a time.

    Raises:
        DownloadError: A file does not come as published. The others are kept, and a later run goes on.
        OSError: The disk does not take it.
    """
    from filelock import FileLock

    plan.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(plan.folder / ".download.lock"):
        bring_all([partial(_bring, file, plan.folder, nearby) for file in plan.missing], advance, threads)
        for left_over in plan.folder.rglob("*.partial"):
            left_over.unlink()
        entries = tuple(LockedFile(file.path, file.bytes, file.sha256 or sha256_of(plan.folder / file.path)) for file in plan.files)
        lock = Lock(plan.weights.repo, plan.weights.revision, plan.weights.licence, entries)
        write_lock(plan.folder, lock)
    return lock


def bring_all(transfers: Sequence[Callable[[Advance], None]], advance: Advance, threads: int) -> None:
    """Runs transfers side by side. When one fails, or the person at the keyboard stops them, the others end with their next bytes."""
    stop = threading.Event()

    def tell(count: int) -> None:
        if stop.is_set():
            raise DownloadError("Stopped.")
        advance(count)

    with ThreadPoolExecutor(threads, thread_name_prefix="download") as pool:
        futures = [pool.submit(transfer, tell) for transfer in transfers]
        try:
            for future in as_completed(futures):
                future.result()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def check_space(folder: Path, needed: int) -> None:
    """Raises `DownloadError` when the disk of a folder, which need not exist yet, has less room than so many bytes."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DownloadError(f"{needed / 1e9:.2f} GB are needed in {folder}, and its disk has {free / 1e9:.2f} GB free.")


def _bring(file: PublishedFile, folder: Path, nearby: Sequence[Path], advance: Advance) -> None:
    target = folder / file.path
    if file.matches(target):  # another process has brought it since the plan was made
        return
    if not copy(file, [place / file.path for place in nearby], target, advance):
        fetch(file, target, advance)
