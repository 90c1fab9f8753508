"""The delivery of what waits in the outbox: when a worker starts, while it runs, and by command."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from shared.errors import UploadError
from shared.jobs.delivery.callbacks import CALLBACK_FILE
from shared.jobs.delivery.outbox import Outbox
from shared.jobs.delivery.outbox_entry import Entry, read_entry
from shared.storage.protocol import Storage, object_key
from shared.telemetry import job_context, logger
from shared.webhooks import Webhook

# Seconds between two looks into the outbox.
_INTERVAL = 300.0


@dataclass(frozen=True, slots=True)
class RedeliveryResult:
    """What became of the entries that were there.

    Attributes:
        delivered: So many were stored and called back, and are gone.
        pending: So many could not be delivered now.
    """

    delivered: int = 0
    pending: int = 0


class Redelivery:
    """Delivers what waits. What is delivered twice has the same keys and the same `webhook-id`, so that no harm is done.

    Args:
        outbox: Where it waits.
        storage: Where files go.
        webhook: Signs and sends.
    """

    def __init__(self, outbox: Outbox, storage: Storage, webhook: Webhook) -> None:
        self._outbox = outbox
        self._storage = storage
        self._webhook = webhook

    def start(self, interval: float = _INTERVAL) -> None:
        """Delivers now and then from now on, beside the work: the start of a worker does not wait for it, nor does its end."""

        def work() -> None:
            while True:
                self.run()
                threading.Event().wait(interval)

        threading.Thread(target=work, name="redelivery", daemon=True).start()

    def run(self) -> RedeliveryResult:
        """Delivers every entry that can be delivered, the oldest first."""
        try:
            self._outbox.expire()
            folders = self._outbox.pending()
        except OSError as error:
            logger().error("the outbox cannot be read", reason=error.strerror)
            return RedeliveryResult()
        delivered = [self._deliver(folder) for folder in folders]
        return RedeliveryResult(delivered.count(True), delivered.count(False))

    def _deliver(self, folder: Path) -> bool:
        entry = read_entry(folder)
        if entry is None:
            if folder.is_dir():
                logger().error("a waiting result is damaged and is not delivered", entry=folder.name)
            return not folder.is_dir()
        with job_context(entry.job_id):
            done = self._store(folder, entry) and self._send(entry)
            logger().info("redelivery", delivered=done, files=len(entry.files))
        if done:
            self._outbox.remove(folder)
        return done

    def _store(self, folder: Path, entry: Entry) -> bool:
        try:
            for file in entry.files:
                self._storage.put(file.key, folder / file.name, file.content_type)
            if self._storage.keeps_callbacks and entry.user_id is not None:
                self._storage.put(object_key(entry.user_id, entry.job_id, CALLBACK_FILE), entry.payload.encode(), "application/json")
        except UploadError as error:
            logger().warning("a waiting result was not stored", reason=error.message)
            return False
        except OSError:  # another worker has delivered it meanwhile
            return not folder.is_dir()
        return True

    def _send(self, entry: Entry) -> bool:
        url = self._webhook.target(entry.callback_url) if entry.calls_back else None
        if url is None:
            return True
        return self._webhook.send(url, entry.payload.encode(), webhook_id=entry.webhook_id).delivered
