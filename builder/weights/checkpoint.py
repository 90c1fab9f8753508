"""An operator's own checkpoint, from a URL or a path, to one `.safetensors` file with its lock beside it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from shared.weights.hub import DownloadError, PublishedFile
from shared.weights.lock import Lock, LockedFile, sha256_of, write_lock
from shared.weights.transfer import OnProgress, copy, fetch

SUFFIX = ".safetensors"


def describe(source: str, target: Path, sha256: str | None) -> PublishedFile:
    """Finds out how large a checkpoint is and, where its host says so, what it hashes to.

    Args:
        source: An `https://` URL or a path. Only `.safetensors`: a pickle runs code when it is read.
        target: Where it goes.
        sha256: What the operator knows it to hash to, 64 hexadecimal digits.

    Raises:
        DownloadError: There is no such file, or the host does not say how large it is.
    """
    if target.suffix != SUFFIX:
        raise DownloadError(f"A checkpoint must be a {SUFFIX} file.")
    if not _is_url(source):
        path = Path(source)
        if not path.is_file():
            raise DownloadError(f"There is no file {path}.")
        return PublishedFile(target.name, path.stat().st_size, source, sha256)
    return _ask(source, target.name, sha256)


def take(file: PublishedFile, source: str, target: Path, licence: str, advance: OnProgress) -> Lock:
    """Brings a checkpoint and writes its lock.

    Without a known SHA-256 only its structure is checked: that it is a `.safetensors` file and has all its bytes.

    Raises:
        DownloadError: It does not come, or is not what it should be. Nothing is left under its name.
    """
    if not file.matches(target) and not (_is_url(source) or copy(file, [Path(source)], target, advance)):
        raise DownloadError(f"{Path(source).name} does not have the SHA-256 that was given.")
    if not file.matches(target):
        fetch(file, target, advance)
    _check_structure(target)
    entry = LockedFile(target.name, file.bytes, file.sha256 or sha256_of(target))
    lock = Lock(without_secrets(source), None, licence, (entry,))
    write_lock(target, lock)
    return lock


def without_secrets(source: str) -> str:
    """A URL without its query string and user, which may hold tokens; of a path its name."""
    parts = urlsplit(source)
    return f"{parts.scheme}://{parts.hostname}{parts.path}" if _is_url(source) else Path(source).name


def _is_url(source: str) -> bool:
    return source.startswith(("https://", "http://"))


def _ask(url: str, name: str, sha256: str | None) -> PublishedFile:
    """Asks for the first byte only: a HEAD is refused by hosts that sign their URLs for GET."""
    import httpx

    try:
        with httpx.stream("GET", url, headers={"Range": "bytes=0-0"}, follow_redirects=True, timeout=30.0) as response:
            response.raise_for_status()
            answers = [*response.history, response]
    except httpx.HTTPError as error:
        raise DownloadError(f"{without_secrets(url)} does not answer ({type(error).__name__}).") from None
    total = response.headers.get("Content-Range", "").rpartition("/")[2] or response.headers.get("Content-Length", "")
    if not total.isdigit():
        raise DownloadError(f"{without_secrets(url)} does not say how large it is.")
    # The hub publishes the SHA-256 of large files in the answer that redirects to them.
    published = [tag for answer in answers if len(tag := answer.headers.get("X-Linked-Etag", "").strip('"')) == 64]
    if sha256 is not None and published and published[0] != sha256:
        raise DownloadError("The hub publishes another SHA-256 for this checkpoint than the one that was given.")
    return PublishedFile(name, int(total), url, sha256 or (published[0] if published else None))


def _check_structure(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        path.unlink()
        raise DownloadError(f"{path.name} is not a complete .safetensors file ({error}), and was deleted.") from None
