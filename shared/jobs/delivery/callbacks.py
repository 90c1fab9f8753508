"""How a job's end reaches those who wait for it: `callback.json`, the webhook, and the measure of what RunPod can take."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

from shared.contract.callback import CompletedPayload, FailedPayload, Payload, to_json
from shared.contract.request import Identity
from shared.errors import GenerationError, UploadError
from shared.jobs import payload as payloads
from shared.jobs.delivery.outbox import Outbox, OutboxWriter
from shared.jobs.delivery.uploads import UploadSession
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.threads import await_or_cancel, submit, wait_done
from shared.storage.protocol import Storage, object_key
from shared.telemetry import logger
from shared.webhooks import ATTEMPTS, Webhook

# RunPod's documentation allows 10 MB for a result of `/run`; what is larger is answered with 400 and lost without a word. The rest is for
# the envelope and for whatever counts differently on the way.
MAX_RESULT_BYTES = 8 * 1024 * 1024

CALLBACK_FILE = "callback.json"
"""The payload's name beside the assets."""

# Seconds for a callback that others wait for: that a job has begun, or that it was stopped.
_BEST_EFFORT_SECONDS = 5.0

T = TypeVar("T")


def check_result_size(payload: CompletedPayload) -> CompletedPayload:
    """Returns a payload that RunPod can take.

    Raises:
        GenerationError: It is larger than that.
        ValueError: It is not JSON, for instance because a number in it is not finite.
    """
    size = len(to_json(payload))
    if size > MAX_RESULT_BYTES:
        message = f"The result has {size / 1024**2:.1f} MiB and RunPod takes at most {MAX_RESULT_BYTES // 1024**2} MiB. Ask for less text."
        raise GenerationError(message, retryable=False)
    return payload


class CallbackDispatcher:
    """Delivers payloads. A delivery that fails never changes how a job ended: the payload is also what RunPod gets.

    Args:
        storage: Keeps `callback.json` beside the assets, if it does.
        webhook: Signs and sends.
        threads: Where it is done.
        always_callback: Whether a callback goes out for requests that name no `callback_url`.
        send_processing: Whether a job's start is called back too.
        outbox: Where what cannot be delivered is kept; None keeps nothing.
    """

    def __init__(
        self, storage: Storage, webhook: Webhook, threads: Executor, *, always_callback: bool, send_processing: bool, outbox: Outbox | None = None
    ) -> None:
        self._storage = storage
        self._webhook = webhook
        self._threads = threads
        self._unasked = always_callback
        self._announces = send_processing
        self._outbox = outbox

    def upload_session(self, identity: Identity) -> UploadSession:
        """A job's way to storage."""

        def commit(writer: OutboxWriter, payload: CompletedPayload) -> None:
            writer.commit(identity, payload, webhook_id=webhook_id(payload), calls_back=self._calls_back(identity))

        return UploadSession(self._storage, self._outbox.writer(identity) if self._outbox is not None else None, commit)

    async def dispatch_processing(self, identity: Identity, worker_id: str, token: CancelToken) -> None:
        """Calls back that the job is being processed, where the operator wants it. Over when it returns, so never after a final one.

        Raises:
            asyncio.CancelledError: The job was stopped meanwhile.
        """
        if self._announces:
            send = partial(self._send, payloads.processing(identity, worker_id), identity, attempts=1, seconds=_BEST_EFFORT_SECONDS)
            await await_or_cancel(submit(self._threads, send), token)

    async def dispatch(self, payload: CompletedPayload | FailedPayload, identity: Identity, *, best_effort: bool = False) -> bool:
        """Stores the payload beside the assets, then sends it. Raises nothing, and is not interrupted by a job that is stopped now.

        Args:
            payload: How the job ended.
            identity: Whose job it is.
            best_effort: Gives up soon, because RunPod has stopped the job or is about to. What is not sent then is kept, and sent later.

        Returns:
            Whether all is done. Otherwise the callback is still to be made.
        """
        attempts, seconds = (2, _BEST_EFFORT_SECONDS) if best_effort else (ATTEMPTS, math.inf)
        await self._on_thread(partial(self._store, payload, identity, seconds))
        sent = await self._on_thread(partial(self._send, payload, identity, attempts=attempts, seconds=seconds))
        await self._on_thread(partial(self._update_outbox, payload, identity, sent=sent is True))
        return sent is True

    async def _on_thread(self, work: Callable[[], T]) -> T | None:
        future = asyncio.wrap_future(submit(self._threads, work))
        await wait_done(future)
        if (error := future.exception()) is not None:
            logger().error("not delivered", error_type=type(error).__name__)
            return None
        return future.result()

    def _store(self, payload: Payload, identity: Identity, seconds: float) -> None:
        if not self._storage.keeps_callbacks or identity.user_id is None:
            return
        key = object_key(identity.user_id, identity.job_id, CALLBACK_FILE)
        try:
            self._storage.put(key, to_json(payload), "application/json", seconds=seconds)
        except UploadError as error:
            logger().warning("callback.json was not stored", reason=error.message)

    def _send(self, payload: Payload, identity: Identity, *, attempts: int, seconds: float) -> bool:
        """Returns whether nothing is left to be sent."""
        url = self._webhook.target(identity.callback_url) if self._calls_back(identity) else None
        if url is None:
            return True
        delivery = self._webhook.send(url, to_json(payload), webhook_id=webhook_id(payload), attempts=attempts, seconds=seconds)
        log = logger().info if delivery.delivered else logger().warning
        log("callback", delivered=delivery.delivered, attempts=delivery.attempts, http_status=delivery.status, reason=delivery.reason)
        return delivery.delivered

    def _update_outbox(self, payload: CompletedPayload | FailedPayload, identity: Identity, *, sent: bool) -> None:
        """Keeps what was not sent, and forgets what an earlier run of the job had left."""
        if self._outbox is None:
            return
        if sent and payload.status == "completed":
            self._outbox.discard(identity)
        # A result that is kept says more than that it could not be stored.
        elif not sent and not (payload.status == "failed" and self._outbox.contains(identity)):
            self._outbox.writer(identity).commit(identity, payload, webhook_id=webhook_id(payload), calls_back=True)

    def _calls_back(self, identity: Identity) -> bool:
        return identity.callback_url is not None or self._unasked


def webhook_id(payload: Payload) -> str:
    """The same for every try and every repetition of the job, so that receivers can tell what they have seen."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", f"{payload.job_id}_{payload.status}")[-256:]
