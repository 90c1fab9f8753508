"""Downloads a catalogue entry: fetches only missing files, verifies each one, and writes the lock file."""

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
from shared.weights.transfer import OnProgress, copy, fetch, partial_path

THREADS = 4
"""Parallel transfers: a single connection to the hub does not saturate the network."""


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """The transfers that one catalogue entry needs.

    Attributes:
        weights: The catalogue entry.
        folder: The target folder.
        files: All files of the entry.
        missing: The ones that are missing or differ from the published ones, the largest first.
        received: Bytes of the missing ones that an interrupted run left.
    """

    weights: Weights
    folder: Path
    files: tuple[PublishedFile, ...]
    missing: tuple[PublishedFile, ...]
    received: int

    @property
    def bytes(self) -> int:
        """The total size of the missing files."""
        return sum(file.bytes for file in self.missing)


def verified_lock(weights: Weights, folder: Path) -> Lock | None:
    """Returns the lock of a folder that is complete: of this revision, every file with the locked hash. Does not contact the hub."""
    try:
        lock = read_lock(folder)
    except ValueError:
        return None
    if lock is None or (lock.source, lock.revision) != (weights.repo, weights.revision):
        return None
    return None if differences(folder, lock, hashes=True) else lock


def plan_download(weights: Weights, folder: Path) -> DownloadPlan:
    """Compares a folder with the files on the hub.

    Raises:
        DownloadError: The hub cannot be reached, or the disk lacks space for the missing files.
    """
    files = list_files(weights)
    with ThreadPoolExecutor(THREADS) as threads:
        present = list(threads.map(lambda file: file.matches(folder / file.path), files))
    missing = [file for file, is_present in zip(files, present, strict=True) if not is_present]
    partials = [partial_path(file, folder / file.path) for file in missing]
    plan = DownloadPlan(
        weights,
        folder,
        tuple(files),
        tuple(sorted(missing, key=lambda file: -file.bytes)),
        sum(path.stat().st_size for path in partials if path.is_file()),
    )
    check_space(folder, plan.bytes - plan.received)
    return plan


def run_download(plan: DownloadPlan, on_progress: OnProgress, *, local_copies: Sequence[Path] = (), threads: int = THREADS) -> Lock:
    """Transfers the missing files and writes the lock.

    Args:
        plan: The transfers.
        on_progress: Receives the bytes as they arrive, on several threads.
        local_copies: Other folders with these weights on this machine. Their files are copied instead of downloaded.
        threads: Parallel transfers.

    Raises:
        DownloadError: A transfer failed. The other files are kept, and a later run resumes.
        OSError: A file could not be written.
    """
    from filelock import FileLock

    plan.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(plan.folder / ".download.lock"):
        run_transfers([partial(_transfer, file, plan.folder, local_copies) for file in plan.missing], on_progress, threads)
        for leftover in plan.folder.rglob("*.partial"):
            leftover.unlink()
        entries = tuple(LockedFile(file.path, file.bytes, file.sha256 or sha256_of(plan.folder / file.path)) for file in plan.files)
        lock = Lock(plan.weights.repo, plan.weights.revision, plan.weights.licence, entries)
        write_lock(plan.folder, lock)
    return lock


def run_transfers(transfers: Sequence[Callable[[OnProgress], None]], on_progress: OnProgress, threads: int) -> None:
    """Runs transfers in parallel. When one fails, or on a keyboard interrupt, the others stop at their next chunk."""
    stop = threading.Event()

    def report(count: int) -> None:
        if stop.is_set():
            raise DownloadError("Stopped.")
        on_progress(count)

    with ThreadPoolExecutor(threads, thread_name_prefix="download") as pool:
        futures = [pool.submit(transfer, report) for transfer in transfers]
        try:
            for future in as_completed(futures):
                future.result()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


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
