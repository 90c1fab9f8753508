"""Storage in a local folder, for development and for workers without Supabase."""

from __future__ import annotations

import math
import shutil
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from shared.errors import UploadError
from shared.settings import SettingsError
from shared.storage.files import atomic_write
from shared.storage.protocol import StoredObject, checked_key, describe_object


class LocalDisk:
    """Stores objects as files in a folder, with the same keys as in a bucket.

    Args:
        folder: Created if it does not exist.
    """

    keeps_callbacks = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self) -> None:
        """Writes and deletes a file.

        Raises:
            SettingsError: The folder is not writable.
        """
        try:
            with atomic_write(self._folder / ".check") as file:
                file.write(b"ok")
            (self._folder / ".check").unlink()
        except OSError as error:
            raise SettingsError(f"OUTPUT_DIR is not writable ({error.strerror}). Choose a folder that this user may write to.") from None

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


def _open_content(content: bytes | Path) -> BinaryIO:
    return BytesIO(content) if isinstance(content, bytes) else content.open("rb")
