"""Results in the payload itself."""

from __future__ import annotations

import hashlib
from base64 import b64decode
from pathlib import Path

import pytest

from shared.errors import UploadError
from shared.settings import Settings
from shared.storage import open_storage
from shared.storage.inline import MAX_INLINE_BYTES


def test_a_file_is_returned_in_base64_and_not_kept(tmp_path: Path) -> None:
    storage = open_storage(Settings(result_storage="inline"))
    (tmp_path / "clip").write_bytes(b"a clip" * 1000)
    for content in (b"an image", tmp_path / "clip"):
        raw = content if isinstance(content, bytes) else content.read_bytes()
        stored = storage.put("u/j/0.png", content, "image/png")
        assert stored.data is not None
        assert b64decode(stored.data) == raw
        assert (stored.size, stored.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
        assert stored.data not in repr(stored)
    assert storage.list_objects("u", "j") == []
    assert storage.sha256("u/j/0.png") is None
    assert storage.presigned_url("u/j/0.png") is None
    assert not storage.keeps_callbacks


def test_what_may_not_fit_is_refused_before_the_work() -> None:
    storage = open_storage(Settings(result_storage="inline"))
    storage.check(["image/png"])
    storage.ensure_accepts(["image/png"], max_bytes=MAX_INLINE_BYTES)
    with pytest.raises(UploadError, match=r"can have 6\.1 MB, .* at most 6 MB\. Nothing was generated\. Ask for fewer") as refused:
        storage.ensure_accepts(["image/png"], max_bytes=MAX_INLINE_BYTES + 100_000)
    assert not refused.value.retryable


def test_a_file_that_does_not_fit_is_a_clear_error() -> None:
    storage = open_storage(Settings(result_storage="inline"))
    storage.put("u/j/0.mp4", bytes(MAX_INLINE_BYTES), "video/mp4")
    with pytest.raises(UploadError, match=r"A file has 6\.1 MB, .* at most 6 MB\. Ask for fewer") as refused:
        storage.put("u/j/0.mp4", bytes(MAX_INLINE_BYTES + 100_000), "video/mp4")
    assert not refused.value.retryable
