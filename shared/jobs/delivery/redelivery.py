"""Redelivery of the outbox: when a worker starts, periodically while it runs, and on demand (`python -m shared.redeliver`)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from shared.errors import UploadError
from shared.jobs.delivery.callbacks import CALLBACK_FILE
from shared.jobs.delivery.outbox import Outbox
from shared.jobs.delivery.outbox_entry import OpenEntry, OutboxEntry
from shared.jobs.delivery.outbox_files import EntryRejected
from shared.jobs.delivery.presigned_urls import renew_presigned_urls
from shared.jobs.delivery.stored_results import is_superseded, remove_older
from shared.storage.protocol import Storage, object_key
from shared.telemetry import job_context, logger
from shared.webhooks import Webhook

# Seconds between two passes over the outbox.
_INTERVAL = 300.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RedeliveryResult:
    """The outcome of one pass over the outbox.

    Attributes:
        delivered: Entries that were stored and called back, or superseded by a newer result, and are removed.
        pending: Entries that could not be delivered now.
        rejected: Entries that are set aside: not authentic, damaged, or no folder.
    """

    delivered: int = 0
    pending: int = 0
    rejected: int = 0


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
                _isolated(self.run)
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
        done = [self._deliver_isolated(folder) for folder in folders]
        return RedeliveryResult(done.count(True), done.count(False), self._outbox.rejected)

    def _deliver_isolated(self, folder: Path) -> bool | None:
        """Delivers an entry. An error that was not foreseen leaves it pending, and does not end the delivery of others."""
        results = _isolated(partial(self._deliver, folder))
        return results[0] if results else False

    def _deliver(self, folder: Path) -> bool | None:
        """Delivers an entry. Returns whether it is done with, None if it was set aside."""
        try:
            with self._outbox.open(folder) as entry, job_context(entry.manifest.job_id, entry.manifest.trace):
                entry.check_files()
                superseded = self._is_superseded(entry.manifest)
                done = superseded is True or (superseded is False and self._store(entry) and self._send(entry.manifest))
                logger().info("redelivery", delivered=done, superseded=superseded, files=len(entry.manifest.files))
        except EntryRejected as error:
            return None if self._outbox.set_aside(folder, str(error)) else True
        except FileNotFoundError:
            return not folder.exists()  # another worker has delivered it meanwhile
        except OSError as error:
            logger().error("outbox entry cannot be read", entry=folder.name, reason=error.strerror)
            return False
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

    def _store(self, entry: OpenEntry) -> bool:
        manifest = entry.manifest
        try:
            for file in manifest.files:
                with entry.copy_of(file) as content:
                    self._storage.put(file.key, content, file.content_type)
            if manifest.files and manifest.user_id is not None:
                keep = {file.key for file in manifest.files}
                remove_older(self._storage, self._storage.list_objects(manifest.user_id, manifest.job_id), manifest.payload, keep)
            if self._storage.keeps_callbacks and manifest.user_id is not None:
                key = object_key(manifest.user_id, manifest.job_id, CALLBACK_FILE)
                self._storage.put(key, self._payload_of(manifest), "application/json")
        except UploadError as error:
            logger().warning("outbox entry was not stored", reason=error.message)
            return False
        return True

    def _payload_of(self, entry: OutboxEntry) -> bytes:
        return renew_presigned_urls(entry.payload, self._storage).encode()

    def _send(self, entry: OutboxEntry) -> bool:
        url = self._webhook.target(entry.callback_url) if entry.calls_back else None
        if url is None:
            return True
        return self._webhook.send(url, self._payload_of(entry), webhook_id=entry.webhook_id, trace=entry.trace).delivered


def _isolated(work: Callable[[], T]) -> list[T]:
    """Works on a daemon thread of its own and waits for it. An error is logged there, as of any thread, and does not end the caller.

    Returns:
        The result; nothing after an error.
    """
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(work()), name="redelivery", daemon=True)
    thread.start()
    thread.join()
    return results
