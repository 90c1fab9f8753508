"""Storage in a local folder, for development and for workers without Supabase."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from shared.errors import UploadError
from shared.settings import SettingsError
from shared.storage.files import atomic_write
from shared.storage.protocol import ListedObject, StoredObject, checked_key, describe_object, object_key


class LocalDisk:
    """Stores objects as files in a folder, with the same keys as in a bucket.

    Args:
        folder: Created if it does not exist.
    """

    keeps_callbacks = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self, mime_types: Collection[str]) -> None:
        """Writes and deletes a file.

        Args:
            mime_types: Ignored.

        Raises:
            SettingsError: The folder is not writable.
        """
        try:
            with atomic_write(self._folder / ".check") as file:
                file.write(b"ok")
            (self._folder / ".check").unlink()
        except OSError as error:
            raise SettingsError(f"OUTPUT_DIR is not writable ({error.strerror}). Choose a folder that this user may write to.") from None

    def ensure_accepts(self, mime_types: Collection[str], *, max_bytes: int = 0) -> None:
        """Accepts everything."""

    def put(self, key: str, content: bytes | Path, content_type: str, *, seconds: float = math.inf) -> StoredObject:
        """Stores an object, overwriting any previous one. After a crash there is the old file or the new one, never a partial one.

        Args:
            key: From `object_key`.
            content: The bytes, or a file.
            content_type: Not stored: the key's extension implies it.
            seconds: Ignored.

        Raises:
            UploadError: The write failed, for example because the disk is full.
            ValueError: The key is not from `object_key`.
        """
        path = self._folder / checked_key(key)
        try:
            stored = describe_object(key, content)
            with atomic_write(path) as file, _open_content(content) as source:
                shutil.copyfileobj(source, file, length=1 << 20)
        except OSError as error:
            raise UploadError(
                f"The result could not be written to disk ({error.strerror}). Ask the operator to check OUTPUT_DIR."
            ) from None
        return stored

    def list_objects(self, user_id: str, job_id: str) -> list[ListedObject]:
        """Lists the folder of a job, without files that are being written."""
        folder = (self._folder / object_key(user_id, job_id, "0.png")).parent
        with _upload_errors("read"):
            files = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
            return [ListedObject(f"{user_id}/{job_id}/{path.name}", path.stat().st_mtime) for path in files if path.name[0] != "."]

    def sha256(self, key: str) -> str | None:
        """Hashes a file; None if there is no such file."""
        path = self._folder / checked_key(key)
        with _upload_errors("read"):
            return describe_object(key, path).sha256 if path.is_file() else None

    def remove(self, keys: Sequence[str]) -> None:
        """Deletes files."""
        with _upload_errors("deleted"):
            for key in keys:
                (self._folder / checked_key(key)).unlink(missing_ok=True)

    def presigned_url(self, key: str) -> None:
        """Returns None: a file has no URL."""


@contextmanager
def _upload_errors(verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"Stored results could not be {verb} ({error.strerror}). Ask the operator to check OUTPUT_DIR."
        raise UploadError(message) from None


def _open_content(content: bytes | Path) -> BinaryIO:
    return BytesIO(content) if isinstance(content, bytes) else content.open("rb")
