"""Storage in a folder, for a developer's machine and for workers without Supabase."""

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
    """Keeps objects as files under one folder, by the same keys as a bucket.

    Args:
        folder: Made when it is missing.
    """

    keeps_callbacks = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self) -> None:
        """Writes and removes a file.

        Raises:
            SettingsError: The folder cannot be written to.
        """
        try:
            with atomic_write(self._folder / ".check") as file:
                file.write(b"ok")
            (self._folder / ".check").unlink()
        except OSError as error:
            raise SettingsError(
                f"OUTPUT_DIR cannot be written to ({error.strerror}). Please name a folder that this user may write to."
            ) from None

    def put(self, key: str, content: bytes | Path, content_type: str, *, seconds: float = math.inf) -> StoredObject:
        """Stores an object, over what was there before. A crash leaves the old file or the new one, never a part of it.

        Args:
            key: Made by `object_key`.
            content: The bytes, or the file that holds them.
            content_type: Not kept: the key's extension says it.
            seconds: Not looked at: a disk answers at once.

        Raises:
            UploadError: The disk refused, for example because it is full.
            ValueError: The key was not made by `object_key`.
        """
        path = self._folder / checked_key(key)
        try:
            stored = describe_object(key, content)
            with atomic_write(path) as file, _reading(content) as source:
                shutil.copyfileobj(source, file, length=1 << 20)
        except OSError as error:
            raise UploadError(
                f"The result could not be written to disk ({error.strerror}). Ask the operator to look at OUTPUT_DIR."
            ) from None
        return stored


def _reading(content: bytes | Path) -> BinaryIO:
    return BytesIO(content) if isinstance(content, bytes) else content.open("rb")
