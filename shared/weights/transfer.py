"""One file to this machine: it goes on where an earlier run was killed, and appears under its name only when its hash is right."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import stamina

from shared.weights.hub import DownloadError, PublishedFile

Advance = Callable[[int], None]
"""Called with the bytes that have come, from the thread that they came in. What it raises ends the transfer."""

# A run of tries in which nothing came. Those in which something came are not counted.
_ATTEMPTS = 5
_TIMES_WRONG = 2


def partial_path(file: PublishedFile, target: Path) -> Path:
    """Where the bytes lie until all are there. Another content has another name, so that two are never mixed."""
    return target.with_name(f"{target.name}.{file.identity[:12]}.partial")


def fetch(file: PublishedFile, target: Path, advance: Advance) -> None:
    """Downloads one file.

    Args:
        file: What is published.
        target: Where it goes. What is there is replaced.
        advance: Told of all bytes, and of those that are thrown away as a negative number.

    Raises:
        DownloadError: It does not come, or what comes is not what is published, twice.
        OSError: The disk does not take it.
    """
    partial = partial_path(file, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(_TIMES_WRONG):
        _receive_all(file, partial, advance)
        if file.matches(partial):
            os.replace(partial, target)
            return
        advance(-partial.stat().st_size)
        partial.unlink()
    raise DownloadError(f"{file.path} came {_TIMES_WRONG} times with other bytes than its publisher states, and was deleted.")


def copy(file: PublishedFile, sources: Iterable[Path], target: Path, advance: Advance) -> bool:
    """Copies one file from where it already is on this machine.

    Args:
        file: What is published.
        sources: Where it may be. What is there counts only when it has the published hash.
        target: Where it goes.
        advance: Told of its bytes.

    Returns:
        Whether it was there.
    """
    partial = partial_path(file, target)
    for source in sources:
        if source.is_file() and source.stat().st_size == file.bytes:
            target.parent.mkdir(parents=True, exist_ok=True)
            had = partial.stat().st_size if partial.exists() else 0
            shutil.copyfile(source, partial)
            if file.matches(partial):
                os.replace(partial, target)
                advance(file.bytes - had)
                return True
            partial.unlink()
            advance(-had)
    return False


def _receive_all(file: PublishedFile, partial: Path, advance: Advance) -> None:
    from httpx2 import HTTPError

    try:
        while True:
            before = partial.stat().st_size if partial.exists() else 0
            try:
                return _receive(file, partial, advance)
            except (HTTPError, OSError) as error:
                if not _may_come(error) or partial.stat().st_size <= before:
                    raise
    except (HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of this machine, not of the hub
        raise DownloadError(f"{file.path} could not be downloaded ({_reason(error)}). Start again: it goes on from here.") from None


def _may_come(error: Exception) -> bool:
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    # The hub's library raises an OSError without a number when fewer bytes came than were announced.
    return error.errno is None if isinstance(error, OSError) else isinstance(error, HTTPError)


@stamina.retry(on=_may_come, attempts=_ATTEMPTS, timeout=None, wait_initial=0.5, wait_max=20.0)
def _receive(file: PublishedFile, partial: Path, advance: Advance) -> None:
    from huggingface_hub.file_download import http_get

    with partial.open("ab") as stream:
        if stream.tell() > file.bytes:
            advance(-stream.tell())
            stream.truncate(0)
        http_get(
            file.url,
            stream,
            resume_size=stream.tell(),
            headers=dict(file.headers),
            expected_size=file.bytes,
            displayed_filename=file.path,
            tqdm_class=_counter(advance),
        )


def _counter(advance: Advance) -> Any:
    """The class of a progress bar that shows nothing and hands the numbers on."""

    class Counter:
        def __init__(self, *_arguments: Any, **_options: Any) -> None:
            self.update = advance

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_error: object) -> None:
            return None

    return Counter


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    return f"HTTP status {error.response.status_code}" if isinstance(error, HfHubHTTPError) else type(error).__name__
