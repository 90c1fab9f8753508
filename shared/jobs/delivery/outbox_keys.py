"""The keys that authenticate outbox entries: an HMAC under a key that is derived from the operator's secret.

Anyone who mounts the volume can write to the outbox. Without authentication an entry of theirs would be signed with the callback secret and
uploaded with the service key. With it they can withhold, delete or repeat entries, but not make one.

The secret is `JOB_CALLBACK_SECRET`, or without one the key of the bucket. Entries under `JOB_CALLBACK_SECRET_PREVIOUS` are still
delivered, so that a rotation loses nothing. With neither a secret nor a key, results are files in `OUTPUT_DIR` and nothing is signed: the
MAC then only detects damage.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from pydantic import SecretStr

from shared.settings import Settings

_INFO = b"gpu-handlers outbox entry v1"


class EntryKeys:
    """Makes and verifies the MACs of entries.

    Args:
        secrets: The first makes MACs, each of them verifies.
    """

    def __init__(self, secrets: Sequence[SecretStr] = ()) -> None:
        self._keys = tuple(hkdf_sha256(secret.get_secret_value().encode(), _INFO) for secret in secrets) or (hkdf_sha256(b"", _INFO),)

    def mac(self, name: str, manifest: bytes) -> str:
        """Returns the MAC of an entry, 64 hexadecimal digits.

        Args:
            name: The job's digest and the time of the commit: an entry cannot be renamed to another job, nor be made newer.
            manifest: It names the SHA-256 of each file.
        """
        return _mac(self._keys[0], name, manifest)

    def verifies(self, mac: str, name: str, manifest: bytes) -> bool:
        """Whether a MAC was made with one of the keys."""
        return any([hmac.compare_digest(_mac(key, name, manifest), mac) for key in self._keys])


def entry_keys(settings: Settings) -> EntryKeys:
    """Returns the keys that the operator's secrets imply."""
    storage_keys = (settings.supabase_key, settings.bucket_secret_access_key)
    secrets = (settings.job_callback_secret, settings.job_callback_secret_previous, *storage_keys)
    return EntryKeys([secret for secret in secrets if secret is not None])


def hkdf_sha256(secret: bytes, info: bytes, salt: bytes = b"") -> bytes:
    """Derives a key of 32 bytes by HKDF with SHA-256 (RFC 5869): its first block of output."""
    extracted = hmac.digest(salt or bytes(hashlib.sha256().digest_size), secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def _mac(key: bytes, name: str, manifest: bytes) -> str:
    return hmac.new(key, name.encode() + b"\n" + manifest, hashlib.sha256).hexdigest()
