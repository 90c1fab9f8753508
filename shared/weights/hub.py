"""Lists files on the Hugging Face hub, with sizes and hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from shared.weights.catalogue import Weights
from shared.weights.lock import is_path_traversal, sha256_of


class DownloadError(Exception):
    """A download failed. The message is for the operator and contains no token and no query string."""


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file as published on the hub.

    Attributes:
        path: Relative to the folder that it belongs in, with `/`.
        bytes: The size.
        url: Its download URL.
        sha256: Published for large files.
        blob: Git's object id, published for all other files: the SHA-1 of `blob SIZE\\0` and the bytes.
        headers: For the download request.
    """

    path: str
    bytes: int
    url: str = field(repr=False)
    sha256: str | None = None
    blob: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def identity(self) -> str:
        """A string that identifies the contents."""
        return self.sha256 or self.blob or hashlib.sha256(f"{self.url} {self.bytes}".encode()).hexdigest()

    def matches(self, path: Path) -> bool:
        """Returns whether a local file has the published size and hash. Reads the whole file."""
        if not path.is_file() or path.stat().st_size != self.bytes:
            return False
        if self.sha256 is not None:
            return sha256_of(path) == self.sha256
        return self.blob is None or _blob_of(path) == self.blob


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """A set of weights on the hub.

    Attributes:
        repo: The repository, `owner/name`.
        revision: The commit, 40 hexadecimal digits.
        licence: As the catalogue states it.
        files: The files of the set, sorted by path.
    """

    repo: str
    revision: str
    licence: str
    files: tuple[PublishedFile, ...]


def find_published(weights: Weights) -> PublishedWeights:
    """Lists the files of a catalogue entry at its pinned revision.

    Raises:
        DownloadError: No revision is pinned, the hub cannot be reached, or it has none of the files.
    """
    if weights.revision is None:
        raise DownloadError(f"The catalogue pins no revision of {weights.repo}: pin one in shared/weights/catalogue.py.")
    files = list_files(weights.repo, weights.revision, weights.patterns)
    return PublishedWeights(weights.repo, weights.revision, weights.licence, tuple(files))


def list_files(repo: str, revision: str, patterns: Iterable[str]) -> list[PublishedFile]:
    """Lists files of a repository, sorted by path.

    Args:
        repo: `owner/name`.
        revision: The commit.
        patterns: Paths, with wildcards.

    Raises:
        DownloadError: The hub cannot be reached, or it has none of the files.
    """
    # Imported here, so that resolving local weights needs no hub library. httpx2 is that library's HTTP client.
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, get_token, hf_hub_url
    from huggingface_hub.hf_api import RepoFile

    patterns = tuple(patterns)
    try:
        entries = list(HfApi().list_repo_tree(repo, recursive=True, revision=revision))
    except (OSError, HTTPError) as error:
        raise DownloadError(f"The files of {repo} could not be listed ({type(error).__name__}).") from None
    files = [entry for entry in entries if isinstance(entry, RepoFile)]
    wanted = [file for file in files if any(fnmatch(file.path, pattern) for pattern in patterns)]
    if not wanted or any(is_path_traversal(file.path) for file in wanted):
        raise DownloadError(f"The hub has none of the required files of {repo}, or lists paths outside the repository.")
    headers = {"Authorization": f"Bearer {token}"} if (token := get_token()) else {}
    return [
        PublishedFile(
            path=file.path,
            bytes=file.lfs.size if file.lfs else file.size,
            url=hf_hub_url(repo, file.path, revision=revision),
            sha256=file.lfs.sha256 if file.lfs else None,
            blob=None if file.lfs else file.blob_id,
            headers=headers,
        )
        for file in sorted(wanted, key=lambda file: file.path)
    ]


def current_revision(repo: str) -> str:
    """Returns the latest commit of a repository, 40 hexadecimal digits.

    Raises:
        DownloadError: The hub cannot be reached, or has no such repository.
    """
    from httpx2 import HTTPError
    from huggingface_hub import HfApi

    try:
        commit = HfApi().repo_info(repo).sha
    except (OSError, HTTPError) as error:
        raise DownloadError(f"The latest revision of {repo} could not be read ({type(error).__name__}).") from None
    if commit is None:
        raise DownloadError(f"The hub does not say which revision of {repo} is the latest.")
    return commit


def _blob_of(path: Path) -> str:
    content = path.read_bytes()  # small files only: large ones have a SHA-256
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
