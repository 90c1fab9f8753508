"""URLs of a payload that waited in the outbox are signed again when it is sent."""

from __future__ import annotations

import json
from pathlib import Path

from shared.contract.assets import ExtraFile
from shared.contract.callback import to_json
from shared.jobs.delivery.presigned_urls import renew_presigned_urls
from shared.storage import open_storage
from shared.storage.local_disk import LocalDisk
from tests.doubles.s3_server import FaultProxy
from tests.shared.contract import payloads

EXPIRED = "https://s3.example/expired"


def with_urls() -> str:
    image = payloads.image(0, presigned_url=EXPIRED, thumbnail_presigned_url=EXPIRED)
    extra = ExtraFile(kind="gif", url="u/j/1.preview.gif", mime_type="image/gif", file_size_bytes=1, presigned_url=EXPIRED)
    clip = payloads.video(1, presigned_url=EXPIRED, thumbnail_presigned_url=EXPIRED, extras=(extra,))
    return to_json(payloads.completed(image, clip)).decode()


def test_every_url_is_signed_again_and_nothing_else_changes(s3: FaultProxy) -> None:
    old, storage = json.loads(with_urls()), open_storage(s3.settings())
    new = json.loads(renew_presigned_urls(with_urls(), storage))
    assert EXPIRED not in json.dumps(new)
    for before, after in zip(old["assets"], new["assets"], strict=True):
        assert f"/{before['url']}?X-Amz-Algorithm" in after["presigned_url"]
        assert f"/{before['thumbnail_url']}?X-Amz-Algorithm" in after["thumbnail_presigned_url"]
    assert "/u/j/1.preview.gif?X-Amz-Algorithm" in new["assets"][1]["extras"][0]["presigned_url"]
    assert json.dumps(new).count("X-Amz-Signature") == 5


def test_a_payload_without_urls_keeps_its_bytes(tmp_path: Path) -> None:
    plain = to_json(payloads.completed(payloads.image(0))).decode()
    assert renew_presigned_urls(plain, LocalDisk(tmp_path)) == plain
    assert json.loads(renew_presigned_urls(with_urls(), LocalDisk(tmp_path))) == json.loads(with_urls())
