"""Storage of results: a bucket of Supabase or of an S3-compatible service, a local folder, or the payload itself."""

from __future__ import annotations

from shared.settings import Settings
from shared.storage.protocol import Storage, StoredObject, object_key

__all__ = ["Storage", "StoredObject", "object_key", "open_storage"]


def open_storage(settings: Settings) -> Storage:
    """Returns the storage that `RESULT_STORAGE` chooses.

    Raises:
        SettingsError: Its settings are incomplete.
    """
    # Imported lazily, so that a worker loads only the client that it uses.
    match settings.storage_kind:
        case "supabase":
            from shared.storage.supabase import SupabaseStorage

            return SupabaseStorage(settings)
        case "s3":
            from shared.storage.s3 import S3Storage

            return S3Storage(settings)
        case "disk":
            from shared.storage.local_disk import LocalDisk

            return LocalDisk(settings.output_dir)
        case "inline":
            from shared.storage.inline import InlineStorage

            return InlineStorage()
