"""Downloads one file, several parts at once: resumes an interrupted transfer, and renames the file only after its hash was verified.

The hub's own library reads a file over one connection, which does not saturate the network, or over a protocol of its own that only some
repositories have. Ranges of HTTP (RFC 9110, section 14) work for every host.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import stamina

from shared.weights.hub import DownloadError, PublishedFile
from shared.weights.parallel import OnProgress, run_transfers
from shared.weights.partial_file import PART_BYTES, PartialFile, discard, received_bytes

CONNECTIONS = 4
"""Connections for the parts of one file."""

# Consecutive attempts without progress. Attempts that received something are not counted.
_ATTEMPTS = 5
_MAX_CORRUPT = 2
_TIMEOUT = 60.0
_PARTIAL_CONTENT = 206
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class _RangesIgnored(Exception):
    """The host sends the whole file, whatever part is asked for."""


def partial_path(file: PublishedFile, target: Path) -> Path:
    """Returns the path of the incomplete file. It depends on the contents, so that two versions are never mixed."""
    return target.with_name(f"{target.name}.{file.identity[:12]}.partial")


def fetch(
    file: PublishedFile, target: Path, on_progress: OnProgress, *, connections: int = CONNECTIONS, part_bytes: int = PART_BYTES
) -> None:
    """Downloads one file.

    Args:
        file: The published file.
        target: Where to store it. An existing file is replaced.
        on_progress: Receives all bytes, and a negative number for bytes that are discarded.
        connections: How many parts arrive at once.
        part_bytes: The size of a part.

    Raises:
        DownloadError: The transfer failed, or its contents were not the published ones, twice.
        OSError: The file could not be written.
    """
    incomplete = partial_path(file, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(_MAX_CORRUPT):
        try:
            _receive(file, incomplete, on_progress, connections, part_bytes)
        except _RangesIgnored:
            on_progress(-received_bytes(incomplete))
            discard(incomplete)
            _receive(file, incomplete, on_progress, 1, max(file.bytes, 1))
        if file.matches(incomplete):
            os.replace(incomplete, target)
            discard(incomplete)
            return
        on_progress(-received_bytes(incomplete))
        discard(incomplete)
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
    incomplete = partial_path(file, target)
    for source in sources:
        if source.is_file() and source.stat().st_size == file.bytes:
            target.parent.mkdir(parents=True, exist_ok=True)
            had = received_bytes(incomplete)
            discard(incomplete)
            shutil.copyfile(source, incomplete)
            if file.matches(incomplete):
                os.replace(incomplete, target)
                on_progress(file.bytes - had)
                return True
            discard(incomplete)
            on_progress(-had)
    return False


def _receive(file: PublishedFile, incomplete: Path, on_progress: OnProgress, connections: int, part_bytes: int) -> None:
    with PartialFile.open(incomplete, file.bytes, part_bytes) as parts:
        run_transfers([partial(_receive_part, file, parts, part) for part in parts.incomplete], on_progress, connections)


def _receive_part(file: PublishedFile, parts: PartialFile, part: int, on_progress: OnProgress) -> None:
    from httpx2 import HTTPError

    try:
        while True:
            before = parts.missing(part)[0]
            try:
                return _attempt(file, parts, part, on_progress)
            except (HTTPError, OSError) as error:
                if not _is_transient(error) or parts.missing(part)[0] <= before:
                    raise
    except (HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of this machine, not of the hub
        raise DownloadError(f"{file.path} could not be downloaded ({_reason(error)}). Run again to resume.") from None


def _is_transient(error: Exception) -> bool:
    from httpx2 import HTTPError, HTTPStatusError

    if isinstance(error, HTTPStatusError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    # A truncated response is an OSError without errno.
    return error.errno is None if isinstance(error, OSError) else isinstance(error, HTTPError)


@stamina.retry(on=_is_transient, attempts=_ATTEMPTS, timeout=None, wait_initial=0.5, wait_max=20.0)
def _attempt(file: PublishedFile, parts: PartialFile, part: int, on_progress: OnProgress) -> None:
    from huggingface_hub import get_session

    start, end = parts.missing(part)
    headers = {**file.headers, "Accept-Encoding": "identity"}
    if start > 0 or parts.count > 1:
        headers["Range"] = f"bytes={start}-{end - 1}"
    with get_session().stream("GET", file.url, headers=headers, timeout=_TIMEOUT) as response:
        response.raise_for_status()
        _check_response(file, response, start)
        if "Range" in headers and response.status_code != _PARTIAL_CONTENT:
            if parts.count > 1:
                raise _RangesIgnored
            on_progress(-parts.restart(part))
        for chunk in response.iter_raw():
            parts.write(part, chunk)
            on_progress(len(chunk))
    if parts.missing(part)[0] < end:
        raise OSError("the response was truncated")


def _check_response(file: PublishedFile, response: Any, start: int) -> None:
    """Refuses a file of another size than the published one: its contents cannot be the published ones either."""
    if response.status_code == _PARTIAL_CONTENT:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != start:
            raise OSError("the response is another part than requested")
        size = match[2]
    else:
        size = response.headers.get("Content-Length", "")
    if size.isdigit() and int(size) != file.bytes:
        raise DownloadError(f"{file.path} has {int(size):,} bytes at its host instead of the published {file.bytes:,}.")


def _reason(error: Exception) -> str:
    from httpx2 import HTTPStatusError

    return f"HTTP status {error.response.status_code}" if isinstance(error, HTTPStatusError) else type(error).__name__
