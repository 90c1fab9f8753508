"""The delivery of payloads: `callback.json` in storage, the webhook to the receiver, and the outbox for what could not be sent."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

from shared.contract.assets import ImageAsset, TextAsset, VideoAsset
from shared.contract.callback import CompletedPayload, FailedPayload, Payload, to_json
from shared.contract.request import Identity
from shared.errors import GenerationError, UploadError
from shared.jobs import payload as payloads
from shared.jobs.delivery.outbox import Outbox
from shared.jobs.delivery.outbox_writer import OutboxWriter
from shared.jobs.delivery.stored_results import remove_older
from shared.jobs.delivery.uploads import UploadSession
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.threads import await_or_cancel, submit, wait_done
from shared.storage.protocol import Storage, object_key
from shared.telemetry import logger
from shared.webhooks import Webhook

# RunPod documents a limit of 10 MB for a result of `/run`; it rejects a larger one with 400 and the result is lost silently. The margin is
# for the envelope and for differences in how the size is counted.
MAX_RESULT_BYTES = 8 * 1024 * 1024

CALLBACK_FILE = "callback.json"
"""The payload's file name in the folder of the job's assets."""

T = TypeVar("T")


def check_result_size(payload: CompletedPayload) -> CompletedPayload:
    """Returns the payload if RunPod accepts it as a result.

    Raises:
        GenerationError: It is too large.
        ValueError: It cannot be represented as JSON, for instance because a number is not finite.
    """
    size = len(to_json(payload))
    if size > MAX_RESULT_BYTES:
        inline = any(isinstance(asset, ImageAsset | VideoAsset) and asset.data is not None for asset in payload.assets)
        advice = "Ask for fewer or smaller files." if inline else "Ask for less text."
        message = f"The result has {size / 1024**2:.1f} MiB and RunPod takes at most {MAX_RESULT_BYTES // 1024**2} MiB. {advice}"
        raise GenerationError(message, retryable=False)
    return payload


class CallbackDispatcher:
    """Stores and sends payloads. A failed delivery never changes the outcome of a job: RunPod gets the same payload as the job's result.

    Args:
        storage: Stores `callback.json`, if it keeps callbacks.
        webhook: Signs and sends.
        threads: Runs the blocking work.
        always_callback: Whether requests without a `callback_url` are called back, too.
        send_processing: Whether a callback also reports that a job has started.
        outbox: Keeps what could not be delivered; None discards it.
        on_delivered: Called after each completed job whose delivery succeeded.

    Attributes:
        best_effort_seconds: Time limit for a callback that delays something else: the start of a job, or the release of a cancelled one.
    """

    best_effort_seconds = 5.0

    def __init__(
        self,
        storage: Storage,
        webhook: Webhook,
        threads: Executor,
        *,
        always_callback: bool,
        send_processing: bool,
        outbox: Outbox | None = None,
        on_delivered: Callable[[], object] = lambda: None,
    ) -> None:
        self._storage = storage
        self._webhook = webhook
        self._threads = threads
        self._always_callback = always_callback
        self._send_processing = send_processing
        self._outbox = outbox
        self._on_delivered = on_delivered
        self._sessions: dict[Identity, UploadSession] = {}

    def upload_session(self, identity: Identity) -> UploadSession:
        """Opens a job's upload session, with the outbox as its fallback."""

        def commit(writer: OutboxWriter, payload: CompletedPayload) -> None:
            self._commit(writer, payload, identity, calls_back=self._calls_back(identity))

        session = UploadSession(self._storage, self._outbox.writer(identity) if self._outbox is not None else None, commit)
        self._sessions[identity] = session
        return session

    def _commit(self, writer: OutboxWriter, payload: CompletedPayload | FailedPayload, identity: Identity, *, calls_back: bool) -> None:
        session = self._sessions.get(identity)
        stored = session.stored if session is not None else {}
        writer.commit(identity, payload, webhook_id=webhook_id(identity, payload.status), calls_back=calls_back, stored=stored)

    async def dispatch_processing(self, identity: Identity, worker_id: str, token: CancelToken) -> None:
        """Sends the `processing` callback, if enabled: one attempt, awaited so that it can never arrive after the final callback.

        Raises:
            asyncio.CancelledError: The job was cancelled meanwhile.
        """
        if self._send_processing:
            send = partial(self._send, payloads.processing(identity, worker_id), identity, attempts=1, seconds=self.best_effort_seconds)
            await await_or_cancel(submit(self._threads, send), token)

    async def dispatch(self, payload: CompletedPayload | FailedPayload, identity: Identity, *, best_effort: bool = False) -> bool:
        """Stores the payload next to the assets, then sends it. Raises nothing, and is not interrupted by a cancellation of the job.

        Args:
            payload: The outcome of the job.
            identity: The job, its user and its callback URL.
            best_effort: Gives up early, because RunPod has cancelled the job or is about to. The outbox retries later.

        Returns:
            Whether delivery is complete. If not, the callback is still pending.
        """
        attempts, seconds = (2, self.best_effort_seconds) if best_effort else (None, math.inf)
        await self._on_thread(partial(self._store, payload, identity, seconds))
        sent = await self._on_thread(partial(self._send, payload, identity, attempts=attempts, seconds=seconds))
        await self._on_thread(partial(self._update_outbox, payload, identity, sent=sent is True))
        self._sessions.pop(identity, None)
        if isinstance(payload, CompletedPayload):
            if not best_effort:
                await self._on_thread(partial(self._remove_older, payload, identity))
            if sent:
                self._on_delivered()
        return sent is True

    async def _on_thread(self, work: Callable[[], T]) -> T | None:
        future = asyncio.wrap_future(submit(self._threads, work))
        await wait_done(future)
        if (error := future.exception()) is not None:
            logger().error("callback delivery failed", error_type=type(error).__name__)
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

    def _remove_older(self, payload: CompletedPayload, identity: Identity) -> None:
        """Deletes files that an earlier run of the job has left in storage."""
        keep = stored_keys(payload)
        if not keep or identity.user_id is None:
            return
        try:
            listed = self._storage.list_objects(identity.user_id, identity.job_id)
            if any(each.key not in keep and not each.key.endswith(CALLBACK_FILE) for each in listed):
                remove_older(self._storage, listed, to_json(payload), keep)
        except UploadError as error:
            logger().warning("files of an earlier run were not removed", reason=error.message)

    def _send(self, payload: Payload, identity: Identity, *, attempts: int | None, seconds: float) -> bool:
        """Sends the callback, if one is due. Returns whether nothing is left to send."""
        url = self._webhook.target(identity.callback_url) if self._calls_back(identity) else None
        if url is None:
            return True
        event = webhook_id(identity, payload.status)
        result = self._webhook.send(url, to_json(payload), webhook_id=event, attempts=attempts, seconds=seconds, trace=identity.trace)
        log = logger().info if result.delivered else logger().warning
        log("callback", delivered=result.delivered, attempts=result.attempts, http_status=result.status, reason=result.reason)
        return result.delivered

    def _update_outbox(self, payload: CompletedPayload | FailedPayload, identity: Identity, *, sent: bool) -> None:
        """Adds the payload that was not sent, or discards what an earlier delivery of the same job has left."""
        if self._outbox is None:
            return
        if sent and payload.status == "completed":
            self._outbox.discard(identity)
        elif not sent:  # the outbox keeps a pending result rather than the failure that reports its upload as pending
            self._commit(self._outbox.writer(identity), payload, identity, calls_back=True)

    def _calls_back(self, identity: Identity) -> bool:
        return identity.callback_url is not None or self._always_callback


def stored_keys(payload: CompletedPayload) -> set[str]:
    """Returns the keys of all files of a payload's assets."""
    files = [asset for asset in payload.assets if not isinstance(asset, TextAsset)]
    extras = [extra.url for asset in files if isinstance(asset, VideoAsset) for extra in asset.extras or ()]
    return {key for asset in files for key in (asset.url, asset.thumbnail_url)} | set(extras)


def webhook_id(identity: Identity, status: str) -> str:
    """Returns the idempotency key of a callback, by which receivers deduplicate.

    It is the same for every retry and every repeated delivery by RunPod, and another for a new attempt of the job.
    """
    event = "/".join((identity.user_id or "", identity.job_id, identity.runpod_id, status))
    return "msg_" + hashlib.sha256(event.encode(errors="backslashreplace")).hexdigest()[:32]
