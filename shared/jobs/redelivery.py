"""The delivery of what waits in the outbox: when a worker starts, while it runs, and by command."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from shared.errors import UploadError
from shared.jobs.deliver import CALLBACK_FILE
from shared.jobs.outbox import Kept, Outbox, read_entry
from shared.storage.protocol import Storage, object_key
from shared.telemetry import job_context, logger
from shared.webhooks import Webhook

# Seconds between two looks into the outbox.
_INTERVAL = 300.0


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the entries that were there.

    Attributes:
        delivered: So many were stored and called back, and are gone.
        waiting: So many could not be delivered now.
    """

    delivered: int = 0
    waiting: int = 0


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

    def run(self) -> Tally:
        """Delivers every entry that can be delivered, the oldest first."""
        try:
            self._outbox.give_up_the_old()
            entries = self._outbox.waiting()
        except OSError as error:
            logger().error("the outbox cannot be read", reason=error.strerror)
            return Tally()
        delivered = [self._deliver(entry) for entry in entries]
        return Tally(delivered.count(True), delivered.count(False))

    def _deliver(self, folder: Path) -> bool:
        kept = read_entry(folder)
        if kept is None:
            if folder.is_dir():
                logger().error("a waiting result is damaged and is not delivered", entry=folder.name)
            return not folder.is_dir()
        with job_context(kept.job_id):
            done = self._store(folder, kept) and self._send(kept)
            logger().info("redelivery", delivered=done, files=len(kept.files))
        if done:
            self._outbox.remove(folder)
        return done

    def _store(self, folder: Path, kept: Kept) -> bool:
        try:
            for file in kept.files:
                self._storage.put(file.key, folder / file.name, file.content_type)
            if self._storage.keeps_callbacks and kept.user_id is not None:
                self._storage.put(object_key(kept.user_id, kept.job_id, CALLBACK_FILE), kept.payload.encode(), "application/json")
        except UploadError as error:
            logger().warning("a waiting result was not stored", reason=error.message)
            return False
        except OSError:  # another worker has delivered it meanwhile
            return not folder.is_dir()
        return True

    def _send(self, kept: Kept) -> bool:
        url = self._webhook.target(kept.callback_url) if kept.calls_back else None
        if url is None:
            return True
        return self._webhook.send(url, kept.payload.encode(), webhook_id=kept.webhook_id).delivered
