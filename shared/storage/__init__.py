"""Storage of results: a Supabase bucket or a local folder."""

from __future__ import annotations

from shared.settings import Settings
from shared.storage.protocol import Storage, StoredObject, object_key

__all__ = ["Storage", "StoredObject", "object_key", "open_storage"]


def open_storage(settings: Settings) -> Storage:
    """Returns the configured storage: Supabase if `SUPABASE_URL` is set, else the folder `OUTPUT_DIR`."""
    # Imported lazily, so that a worker without Supabase does not load its client.
    if settings.supabase_url is not None:
        from shared.storage.supabase import SupabaseStorage

        return SupabaseStorage(settings)
    from shared.storage.local_disk import LocalDisk

    return LocalDisk(settings.output_dir)
