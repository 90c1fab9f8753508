"""Installs a custom SDXL checkpoint from a URL or a path: one verified `.safetensors` file and its lock file."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from shared.weights.hub import DownloadError, PublishedFile
from shared.weights.lock import Lock, LockedFile, sha256_of, write_lock
from shared.weights.parallel import OnProgress
from shared.weights.transfer import copy, fetch

SUFFIX = ".safetensors"


def inspect_source(source: str, target: Path, sha256: str | None) -> PublishedFile:
    """Determines a checkpoint's size and, if its host publishes it, its SHA-256.

    Args:
        source: An `https://` URL or a path of a `.safetensors` file. Other formats are pickles, which execute code when they are loaded.
        target: The destination.
        sha256: The expected hash if the operator knows it, 64 hexadecimal digits.

    Raises:
        DownloadError: The file does not exist, or its host does not report its size.
    """
    if target.suffix != SUFFIX:
        raise DownloadError(f"A checkpoint must be a {SUFFIX} file.")
    if not _is_url(source):
        path = Path(source)
        if not path.is_file():
            raise DownloadError(f"{path} does not exist.")
        return PublishedFile(target.name, path.stat().st_size, source, sha256)
    return _inspect_url(source, target.name, sha256)


def install_checkpoint(file: PublishedFile, source: str, target: Path, licence: str, advance: OnProgress) -> Lock:
    """Downloads or copies a checkpoint and writes its lock file.

    Without a known SHA-256 only the structure is verified: a valid `.safetensors` header and the file's full length.

    Raises:
        DownloadError: The transfer or the verification failed. No file is left at `target`.
    """
    if not file.matches(target) and not (_is_url(source) or copy(file, [Path(source)], target, advance)):
        raise DownloadError(f"{Path(source).name} does not match the SHA-256 given with --sha256.")
    if not file.matches(target):
        fetch(file, target, advance)
    _check_structure(target)
    entry = LockedFile(target.name, file.bytes, file.sha256 or sha256_of(target))
    lock = Lock(redact_source(source), None, licence, (entry,))
    write_lock(target, lock)
    return lock


def redact_source(source: str) -> str:
    """Returns a URL without its query string and user info, which may contain tokens, or the file name of a path."""
    parts = urlsplit(source)
    return f"{parts.scheme}://{parts.hostname}{parts.path}" if _is_url(source) else Path(source).name


def _is_url(source: str) -> bool:
    return source.startswith(("https://", "http://"))


def _inspect_url(url: str, name: str, sha256: str | None) -> PublishedFile:
    """Requests the first byte only. HEAD is not an option: hosts that sign URLs for GET reject it."""
    import httpx

    try:
        with httpx.stream("GET", url, headers={"Range": "bytes=0-0"}, follow_redirects=True, timeout=30.0) as response:
            response.raise_for_status()
            responses = [*response.history, response]
    except httpx.HTTPError as error:
        raise DownloadError(f"{redact_source(url)} could not be reached ({type(error).__name__}).") from None
    total = response.headers.get("Content-Range", "").rpartition("/")[2] or response.headers.get("Content-Length", "")
    if not total.isdigit():
        raise DownloadError(f"{redact_source(url)} does not report its size.")
    # The Hub publishes the SHA-256 of large files in the redirect response.
    published = [tag for each in responses if len(tag := each.headers.get("X-Linked-Etag", "").strip('"')) == 64]
    if sha256 is not None and published and published[0] != sha256:
        raise DownloadError("The SHA-256 given with --sha256 differs from the one that the Hub publishes for this checkpoint.")
    return PublishedFile(name, int(total), url, sha256 or (published[0] if published else None))


def _check_structure(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        path.unlink()
        raise DownloadError(f"{path.name} is not a complete .safetensors file ({error}), and was deleted.") from None
