"""Presigned URLs in payloads that waited in the outbox, where they may have expired."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from shared.storage.protocol import Storage

_KEY_OF: Mapping[str, str] = MappingProxyType({"presigned_url": "url", "thumbnail_presigned_url": "thumbnail_url"})


def renew_presigned_urls(payload: str, storage: Storage) -> str:
    """Returns a payload with URLs that are signed now. One without presigned URLs is returned unchanged, byte for byte.

    Args:
        payload: From `to_json`.
        storage: Signs the URLs.
    """
    if '"presigned_url"' not in payload:
        return payload
    content = json.loads(payload)
    for asset in content["assets"]:
        for each in (asset, *(asset.get("extras") or ())):
            _renew(each, storage)
    return json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _renew(file: dict[str, Any], storage: Storage) -> None:
    for field, key in _KEY_OF.items():
        if field in file:
            file[field] = storage.presigned_url(file[key]) or file[field]
