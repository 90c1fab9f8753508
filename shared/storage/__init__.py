"""Where results go: a Supabase bucket, or a folder."""

from __future__ import annotations

from shared.settings import Settings
from shared.storage.protocol import Storage, StoredObject, object_key

__all__ = ["Storage", "StoredObject", "object_key", "open_storage"]


def open_storage(settings: Settings) -> Storage:
    """Opens what the operator chose: Supabase where `SUPABASE_URL` is set, else the folder `OUTPUT_DIR`."""
    # Imported here so that a worker without Supabase does not load its client.
    if settings.supabase_url is not None:
        from shared.storage.supabase import SupabaseStorage

        return SupabaseStorage(settings)
    from shared.storage.local_disk import LocalDisk

    return LocalDisk(settings.output_dir)
