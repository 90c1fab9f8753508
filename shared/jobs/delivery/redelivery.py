"""Redelivery of the outbox: when a worker starts, periodically while it runs, and on demand (`python -m shared.redeliver`)."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from shared.errors import UploadError
from shared.jobs.delivery.callbacks import CALLBACK_FILE
from shared.jobs.delivery.outbox import Outbox
from shared.jobs.delivery.outbox_entry import OutboxEntry, read_entry
from shared.jobs.delivery.stored_results import is_superseded, remove_older
from shared.storage.protocol import Storage, object_key
from shared.telemetry import job_context, logger
from shared.webhooks import Webhook

# Seconds between two passes over the outbox.
_INTERVAL = 300.0


@dataclass(frozen=True, slots=True)
class RedeliveryResult:
    """The outcome of one pass over the outbox.

    Attributes:
        delivered: Entries that were stored and called back, or superseded by a newer result, and are removed.
        pending: Entries that could not be delivered now.
    """

    delivered: int = 0
    pending: int = 0


class Redelivery:
    """Delivers pending entries. A repeated delivery is idempotent: it has the same keys and the same `webhook-id`.

    An entry is dropped if storage holds a newer result of its job.

    Args:
        outbox: Holds the entries.
        storage: Takes their files.
        webhook: Signs and sends their payloads.
    """

    def __init__(self, outbox: Outbox, storage: Storage, webhook: Webhook) -> None:
        self._outbox = outbox
        self._storage = storage
        self._webhook = webhook
        self._triggered = threading.Event()

    def start(self, interval: float = _INTERVAL) -> None:
        """Delivers now, periodically and when triggered, on a daemon thread: it delays neither the start of a worker nor its exit.

        Args:
            interval: Seconds between two passes.
        """

        def work() -> None:
            while True:
                self._triggered.clear()
                self.run()
                self._triggered.wait(interval)

        threading.Thread(target=work, name="redelivery", daemon=True).start()

    def trigger(self) -> None:
        """Starts a pass soon, because a delivery has just succeeded: whatever was unavailable is available again."""
        self._triggered.set()

    def run(self) -> RedeliveryResult:
        """Attempts to deliver every pending entry, oldest first."""
        try:
            self._outbox.expire()
            folders = self._outbox.pending()
        except OSError as error:
            logger().error("the outbox is not readable", reason=error.strerror)
            return RedeliveryResult()
        delivered = [self._deliver(folder) for folder in folders]
        return RedeliveryResult(delivered.count(True), delivered.count(False))

    def _deliver(self, folder: Path) -> bool:
        entry = read_entry(folder)
        if entry is None:
            if folder.is_dir():
                logger().error("outbox entry is damaged", entry=folder.name)
            return not folder.is_dir()
        with job_context(entry.job_id):
            superseded = self._is_superseded(entry)
            done = superseded is True or (superseded is False and self._store(folder, entry) and self._send(entry))
            logger().info("redelivery", delivered=done, superseded=superseded, files=len(entry.files))
        if done:
            self._outbox.remove(folder)
        return done

    def _is_superseded(self, entry: OutboxEntry) -> bool | None:
        """Whether storage has a newer result of the job; None if that is not known now. A bucket that is gone has none."""
        try:
            return is_superseded(entry, self._storage)
        except UploadError as error:
            logger().warning("outbox entry was not compared with storage", reason=error.message)
            return None if error.retryable else False

    def _store(self, folder: Path, entry: OutboxEntry) -> bool:
        try:
            for file in entry.files:
                self._storage.put(file.key, folder / file.name, file.content_type)
            if entry.files and entry.user_id is not None:
                keep = {file.key for file in entry.files}
                remove_older(self._storage, self._storage.list_objects(entry.user_id, entry.job_id), entry.payload, keep)
            if self._storage.keeps_callbacks and entry.user_id is not None:
                self._storage.put(object_key(entry.user_id, entry.job_id, CALLBACK_FILE), entry.payload.encode(), "application/json")
        except UploadError as error:
            logger().warning("outbox entry was not stored", reason=error.message)
            return False
        except OSError:  # another worker has delivered it meanwhile
            return not folder.is_dir()
        return True

    def _send(self, entry: OutboxEntry) -> bool:
        url = self._webhook.target(entry.callback_url) if entry.calls_back else None
        if url is None:
            return True
        return self._webhook.send(url, entry.payload.encode(), webhook_id=entry.webhook_id).delivered
