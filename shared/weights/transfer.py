"""Downloads one file: resumes an interrupted transfer, and renames the file into place only after its hash was verified."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import stamina

from shared.weights.hub import DownloadError, PublishedFile

OnProgress = Callable[[int], None]
"""Receives the number of bytes of each chunk, on the thread of the transfer. An exception that it raises ends the transfer."""

# Consecutive attempts without progress. Attempts that received something are not counted.
_ATTEMPTS = 5
_MAX_CORRUPT = 2


def partial_path(file: PublishedFile, target: Path) -> Path:
    """Returns the path of the incomplete file. It depends on the contents, so that two versions are never mixed."""
    return target.with_name(f"{target.name}.{file.identity[:12]}.partial")


def fetch(file: PublishedFile, target: Path, on_progress: OnProgress) -> None:
    """Downloads one file.

    Args:
        file: The published file.
        target: Where to store it. An existing file is replaced.
        on_progress: Receives all bytes, and a negative number for bytes that are discarded.

    Raises:
        DownloadError: The transfer failed, or its contents were not the published ones, twice.
        OSError: The file could not be written.
    """
    partial = partial_path(file, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(_MAX_CORRUPT):
        _receive_with_resume(file, partial, on_progress)
        if file.matches(partial):
            os.replace(partial, target)
            return
        on_progress(-partial.stat().st_size)
        partial.unlink()
    raise DownloadError(f"{file.path} was received with the wrong hash {_MAX_CORRUPT} times and deleted.")


def copy(file: PublishedFile, sources: Iterable[Path], target: Path, on_progress: OnProgress) -> bool:
    """Copies one file from another location on this machine.

    Args:
        file: The published file.
        sources: Where it may be. A source is used only if it has the published hash.
        target: Where to store it.
        on_progress: Receives the bytes.

    Returns:
        Whether a source was found.
    """
    partial = partial_path(file, target)
    for source in sources:
        if source.is_file() and source.stat().st_size == file.bytes:
            target.parent.mkdir(parents=True, exist_ok=True)
            had = partial.stat().st_size if partial.exists() else 0
            shutil.copyfile(source, partial)
            if file.matches(partial):
                os.replace(partial, target)
                on_progress(file.bytes - had)
                return True
            partial.unlink()
            on_progress(-had)
    return False


def _receive_with_resume(file: PublishedFile, partial: Path, on_progress: OnProgress) -> None:
    from httpx2 import HTTPError

    try:
        while True:
            before = partial.stat().st_size if partial.exists() else 0
            try:
                return _receive(file, partial, on_progress)
            except (HTTPError, OSError) as error:
                if not _is_transient(error) or partial.stat().st_size <= before:
                    raise
    except (HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of this machine, not of the hub
        raise DownloadError(f"{file.path} could not be downloaded ({_reason(error)}). Run again to resume.") from None


def _is_transient(error: Exception) -> bool:
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    # The hub library raises an OSError without errno for a truncated response.
    return error.errno is None if isinstance(error, OSError) else isinstance(error, HTTPError)


@stamina.retry(on=_is_transient, attempts=_ATTEMPTS, timeout=None, wait_initial=0.5, wait_max=20.0)
def _receive(file: PublishedFile, partial: Path, on_progress: OnProgress) -> None:
    from huggingface_hub.file_download import http_get

    with partial.open("ab") as stream:
        if stream.tell() > file.bytes:
            on_progress(-stream.tell())
            stream.truncate(0)
        http_get(
            file.url,
            stream,
            resume_size=stream.tell(),
            headers=dict(file.headers),
            expected_size=file.bytes,
            displayed_filename=file.path,
            tqdm_class=_counter(on_progress),
        )


def _counter(on_progress: OnProgress) -> Any:
    """A tqdm class that displays nothing and forwards its updates."""

    class Counter:
        def __init__(self, *_arguments: Any, **_options: Any) -> None:
            self.update = on_progress

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_error: object) -> None:
            return None

    return Counter


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    return f"HTTP status {error.response.status_code}" if isinstance(error, HfHubHTTPError) else type(error).__name__
