"""The outbox: atomic entries, one per job, bounded in size and age, redelivered at least once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from shared.contract.callback import FailedPayload
from shared.contract.request import Identity
from shared.jobs.delivery.outbox import Outbox
from shared.jobs.delivery.outbox_entry import MANIFEST, OutboxFile
from shared.jobs.delivery.outbox_keys import EntryKeys
from shared.jobs.delivery.outbox_names import digest_of
from shared.jobs.delivery.redelivery import Redelivery, RedeliveryResult
from shared.settings import Settings, SettingsError
from shared.storage.local_disk import LocalDisk
from shared.webhooks import Webhook
from tests.doubles.processes import clean_environment
from tests.shared.contract.payloads import completed, image

KEY = "user-1/job/0.png"
KEYS = EntryKeys([SecretStr("a-secret-of-sixteen-bytes")])
IDENTITY = Identity("job", "user-1", "sdxl_generate", None)


def outbox_in(folder: Path, *, max_bytes: int = 10_000, max_age: float = 3600.0) -> Outbox:
    return Outbox(folder / "outbox", KEYS, max_bytes=max_bytes, max_age=max_age)


def failed_payload(message: str = "Storage was unavailable.") -> FailedPayload:
    metadata = {
        "runpod_id": "run-1",
        "error_code": "UPLOAD_ERROR",
        "error_type": "UploadError",
        "retryable": True,
        "processing_time": 1.0,
        "timings": {},
    }
    fields = {"job_id": "job", "worker_id": "w", "completed_at": datetime.now(UTC), "error_message": message, "metadata": metadata}
    return FailedPayload.model_validate(fields)


def add_entry(outbox: Outbox, content: bytes = b"pixels", identity: Identity = IDENTITY) -> None:
    writer = outbox.writer(identity)
    writer.add(KEY, content, "image/png")
    writer.commit(identity, failed_payload(), webhook_id="job_failed", calls_back=False)


def redelivery(outbox: Outbox, folder: Path) -> Redelivery:
    return Redelivery(outbox, LocalDisk(folder / "out"), Webhook(Settings()))


def test_pending_entry_is_delivered_and_removed(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path)
    add_entry(outbox, b"pixels")
    assert redelivery(outbox, tmp_path).run() == RedeliveryResult(delivered=1)
    assert (tmp_path / "out" / KEY).read_bytes() == b"pixels"
    assert list((tmp_path / "outbox").iterdir()) == []


def test_uncommitted_entry_is_never_delivered(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path)
    outbox.writer(IDENTITY).add(KEY, b"half a job", "image/png")
    assert outbox.pending() == []
    assert redelivery(outbox, tmp_path).run() == RedeliveryResult()
    assert not (tmp_path / "out" / KEY).exists()


def test_discarded_entry_leaves_nothing_behind(tmp_path: Path) -> None:
    writer = outbox_in(tmp_path).writer(IDENTITY)
    writer.add(KEY, b"half a job", "image/png")
    writer.discard()
    assert list((tmp_path / "outbox").rglob("*")) == []


def test_damaged_file_is_not_delivered(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path)
    add_entry(outbox)
    (entry,) = outbox.pending()
    (entry / "0.png").write_bytes(b"pixelz")
    assert redelivery(outbox, tmp_path).run() == RedeliveryResult(rejected=1)
    assert not (tmp_path / "out" / KEY).exists()


def test_manifest_cannot_name_a_path_outside_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="three parts"):
        OutboxFile(key="user-1/job/../../0.png", content_type="image/png", size=1, sha256="0" * 64)


def test_newest_entry_of_a_job_supersedes_earlier_ones(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path)
    for content in (b"first", b"second"):
        add_entry(outbox, content)
    assert len(outbox.pending()) == 1
    redelivery(outbox, tmp_path).run()
    assert (tmp_path / "out" / KEY).read_bytes() == b"second"
    assert list((tmp_path / "outbox").iterdir()) == [], "a leftover entry would later overwrite the newer file"


def test_entry_committed_last_wins_even_if_started_first(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path)
    result = outbox.writer(IDENTITY)
    result.add(KEY, b"pixels", "image/png")
    outbox.writer(IDENTITY).commit(IDENTITY, failed_payload("Another delivery has failed."), webhook_id="job_failed", calls_back=False)
    result.commit(IDENTITY, failed_payload(), webhook_id="job_failed", calls_back=False)
    (entry,) = outbox.pending()
    assert [file.name for file in entry.glob("*.png")] == ["0.png"]
    assert redelivery(outbox, tmp_path).run() == RedeliveryResult(delivered=1)


@pytest.mark.parametrize("order", [("result", "failure"), ("failure", "result")], ids=" then ".join)
def test_failure_never_supersedes_a_result(tmp_path: Path, order: tuple[str, str]) -> None:
    outbox = outbox_in(tmp_path)
    writers = {"result": outbox.writer(IDENTITY), "failure": outbox.writer(IDENTITY)}
    writers["result"].add(KEY, b"pixels", "image/png")
    for name in order:
        payload = completed(image()) if name == "result" else failed_payload("Another delivery has failed.")
        writers[name].commit(IDENTITY, payload, webhook_id=f"job_{payload.status}", calls_back=False)
    (entry,) = outbox.pending()
    with outbox.open(entry) as opened:
        assert json.loads(opened.manifest.payload)["status"] == "completed"
    assert len(list((tmp_path / "outbox").iterdir())) == 1
    redelivery(outbox, tmp_path).run()
    assert (tmp_path / "out" / KEY).read_bytes() == b"pixels"


def test_damaged_result_does_not_supersede_a_failure(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path)
    result = outbox.writer(IDENTITY)
    result.add(KEY, b"pixels", "image/png")
    result.commit(IDENTITY, completed(image()), webhook_id="job_completed", calls_back=False)
    (outbox.pending()[0] / "0.png").write_bytes(b"other")
    outbox.writer(IDENTITY).commit(IDENTITY, failed_payload("Another delivery has failed."), webhook_id="job_failed", calls_back=False)
    (entry,) = outbox.pending()
    assert not list(entry.glob("*.png"))
    assert outbox.rejected == 1


def test_discarding_a_job_removes_only_its_own_entries(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path)
    add_entry(outbox)
    add_entry(outbox, identity=Identity("other", "user-1", None, None))
    outbox.discard(IDENTITY)
    assert not outbox.pending(digest_of(IDENTITY))
    assert len(outbox.pending()) == 1


def test_full_outbox_refuses_new_files_and_evicts_nothing(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path, max_bytes=2000)
    add_entry(outbox, b"x" * 1000)
    with pytest.raises(OSError, match="OUTBOX_MAX_BYTES"):
        outbox.writer(Identity("other", "user-1", None, None)).add(KEY, b"x" * 1000, "image/png")
    assert len(outbox.pending()) == 1


class SlowFile(type(Path())):  # type: ignore[misc]  # the concrete path class of this platform
    """A file whose second read, the copy, starts only after a concurrent writer has finished or has been blocked for a while."""

    def open(self, *how: Any, **more: Any) -> Any:
        self.opened = getattr(self, "opened", 0) + 1
        if self.opened == 2:
            self.copying.set()
            self.other_done.wait(0.3)
        return super().open(*how, **more)


def test_concurrent_writers_together_stay_within_the_limit(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path, max_bytes=1500)
    (tmp_path / "clip.mp4").write_bytes(bytes(1000))
    slow, copying, other_done = SlowFile(tmp_path / "clip.mp4"), threading.Event(), threading.Event()
    slow.copying, slow.other_done = copying, other_done

    def add_concurrently() -> None:
        copying.wait(60)
        try:
            outbox.writer(Identity("other", "user-1", None, None)).add(KEY, bytes(1000), "image/png")
        finally:
            other_done.set()

    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(add_concurrently)
        outbox.writer(IDENTITY).add("user-1/job/0.mp4", slow, "video/mp4")
        with pytest.raises(OSError, match="OUTBOX_MAX_BYTES"):
            other.result()


def test_concurrent_discards_do_not_disturb_writers(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path, max_bytes=2**30)

    def add_and_discard(number: int) -> None:
        for _ in range(100):
            writer = outbox.writer(Identity(f"job-{number}", "user-1", None, None))
            writer.add(KEY, b"pixels", "image/png")
            writer.discard()
            outbox.expire()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add_and_discard, range(4)))  # raises the first error of a thread
    assert list((tmp_path / "outbox").iterdir()) == []


def test_old_entries_expire(tmp_path: Path) -> None:
    add_entry(outbox_in(tmp_path))
    time.sleep(0.05)
    outbox = outbox_in(tmp_path, max_age=0.01)
    assert redelivery(outbox, tmp_path).run() == RedeliveryResult()
    assert list((tmp_path / "outbox").iterdir()) == []


def test_uncommitted_leftovers_are_deleted_after_a_day(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path)
    outbox.writer(IDENTITY).add(KEY, b"half a job", "image/png")
    outbox.writer(Identity("other", "user-1", None, None)).add(KEY, b"half a job", "image/png")
    first, second = sorted((tmp_path / "outbox").iterdir())
    old = time.time() - 2 * 86400
    os.utime(first, (old, old))
    outbox.expire()
    assert list((tmp_path / "outbox").iterdir()) == [second], "another worker may still be writing the newer one"


def test_unknown_folders_are_kept(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path)
    add_entry(outbox)
    (tmp_path / "outbox/lost+found").mkdir()
    (tmp_path / "outbox/lost+found" / MANIFEST).write_text("{}")
    assert redelivery(outbox, tmp_path).run() == RedeliveryResult(delivered=1)
    assert (tmp_path / "outbox/lost+found" / MANIFEST).exists()


def test_size_limit_covers_the_manifest(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path, max_bytes=200)
    with pytest.raises(OSError, match="OUTBOX_MAX_BYTES"):
        outbox.writer(IDENTITY).commit(IDENTITY, failed_payload(), webhook_id="job_failed", calls_back=False)
    assert list((tmp_path / "outbox").rglob("*")) == []


PERIODIC_REDELIVERY = """
import time
from pathlib import Path
from shared.contract.request import Identity
from tests.shared.jobs.delivery.test_outbox import add_entry, outbox_in, redelivery

outbox = outbox_in(Path())
redelivery(outbox, Path()).start(interval=0.02)
for number in range(2):
    add_entry(outbox, identity=Identity(f"job-{number}", "user-1", None, None))
    deadline = time.monotonic() + 50
    while outbox.pending() and time.monotonic() < deadline:
        time.sleep(0.01)
print(len(outbox.pending()), "pending")
"""


def test_running_worker_redelivers_periodically(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PERIODIC_REDELIVERY]
    done = subprocess.run(command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=110, check=False)
    assert done.stdout.endswith("0 pending\n"), done.stderr


def test_entries_are_accessible_to_their_owner_only(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path)
    add_entry(outbox)
    assert (tmp_path / "outbox").stat().st_mode & 0o077 == 0
    (entry,) = outbox.pending()
    assert entry.stat().st_mode & 0o077 == 0
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in entry.iterdir()} == {"0.png": "0o600", MANIFEST: "0o600"}


def test_check_fails_if_the_folder_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "outbox").write_text("a file")
    with pytest.raises(SettingsError, match="OUTBOX_DIR"):
        outbox_in(tmp_path).check()
