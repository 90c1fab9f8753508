"""The uploads of one job: what storage refuses goes to the outbox, unless the job fails."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from shared.contract.request import Identity
from shared.errors import UploadError
from shared.jobs.delivery.outbox import Outbox
from shared.jobs.delivery.outbox_keys import EntryKeys
from shared.jobs.delivery.uploads import UploadSession
from shared.storage.local_disk import LocalDisk

IDENTITY = Identity("J", "U", "sdxl_generate", None, "run-1")


class RefusingStorage(LocalDisk):
    """Takes nothing."""

    def put(self, *_args: object, **_options: object) -> NoReturn:
        raise UploadError("storage is away", retryable=True)


def test_the_files_of_a_job_that_fails_afterwards_leave_the_outbox(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox", EntryKeys(), max_bytes=100_000, max_age=3600.0)

    def generate() -> NoReturn:
        with UploadSession(RefusingStorage(tmp_path), outbox.writer(IDENTITY), lambda _writer, _payload: None) as session:
            session.put("U/J/0.png", b"pixels", "image/png")
            assert [each.name for each in (tmp_path / "outbox").glob("*/*")] == ["0.png"]
            raise RuntimeError("the second picture cannot be drawn")

    with pytest.raises(RuntimeError):
        generate()
    assert list((tmp_path / "outbox").iterdir()) == []
