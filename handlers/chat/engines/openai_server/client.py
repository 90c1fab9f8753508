"""The engine beside this process: any server on this machine that speaks OpenAI's protocol, such as vLLM in an image of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from handlers.chat.engine import ModelFacts
from handlers.chat.engines.openai_server.protocol import completion_body, messages_of
from handlers.chat.engines.openai_server.stream import Asked, HttpStream
from handlers.chat.refusals import no_such_model, too_long
from handlers.chat.request import ChatRequest
from shared.errors import ModelUnavailable
from shared.jobs.execution.cancel import CancelToken
from shared.network import is_loopback
from shared.settings import Settings, SettingsError
from shared.telemetry import logger

_CONNECT_SECONDS = 5.0
_ASK_SECONDS = 30.0
# Seconds between two looks at whether the server is ready.
_LOOK = 0.5


@dataclass(frozen=True)
class Served:
    """A server's model.

    Attributes:
        model: What the server calls it.
        context_length: How many tokens it holds.
        extensions: Whether the server knows the fields that vLLM has beside OpenAI's.
    """

    model: str
    context_length: int
    extensions: bool = True


class HttpEngine:
    """Writes answers through a server.

    Args:
        url: Where it listens.
        served: What is known of it.
        concurrency: How many answers are asked for at once.
        name: What requests call its model.
    """

    def __init__(self, url: str, served: Served, concurrency: int, *, name: str = "qwen_instruct") -> None:
        self._name = name
        self._served = served
        self.concurrency = concurrency
        self._counts = True  # until the server shows that it cannot count tokens
        self._asking = _client(url)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chat-engine", daemon=True)
        self._thread.start()
        self._places = asyncio.Semaphore(concurrency)
        # Between two tokens a busy server may take its time: how long a job waits is its own deadline's to say.
        timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
        # A connection of its own for each answer: a kept one may be closed by the server just when it is used again.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._writing = httpx.AsyncClient(base_url=url, timeout=timeout, limits=limits, trust_env=False)

    @property
    def models(self) -> Mapping[str, ModelFacts]:
        """The one model that the server is used for."""
        return {self._name: ModelFacts(self._served.context_length)}

    @property
    def vram_used_mb(self) -> int:
        """Not known: the memory is the server's."""
        return 0

    def check(self, request: ChatRequest) -> None:
        """Refuses, before any work, what can never be written. Whether a server can follow a form or a schema, only it can say."""
        if request.model != self._name:
            raise no_such_model(request, self.models)
        if request.repetition_penalty != 1.0 and not self._served.extensions:
            raise ModelUnavailable("The engine beside this worker has no repetition_penalty. Leave it out, or set it to 1.")
        prompt, window = self._count(request), self._served.context_length
        if request.max_tokens + (prompt or 0) > window:
            raise too_long(request, prompt, window)

    def start(self, request: ChatRequest, cancel: CancelToken) -> HttpStream:
        """Asks the server for an answer."""
        body = completion_body(request, self._served.model, extensions=self._served.extensions)
        # A stop of the caller's may end JSON in its middle.
        is_json = request.response_format.type != "text" and not request.stop
        asked = Asked(body, too_long(request, None, self._served.context_length), is_json)
        return HttpStream(asked, cancel, self._loop, self._writing, self._places)

    def close(self) -> None:
        """Closes every connection."""
        asyncio.run_coroutine_threadsafe(self._writing.aclose(), self._loop).result(_CONNECT_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._asking.close()

    def _count(self, request: ChatRequest) -> int | None:
        """The tokens of a conversation, where the server counts them, as vLLM does at `/tokenize`."""
        if not self._counts:
            return None
        body = {"model": self._served.model, "messages": messages_of(request)}
        try:
            answer = self._asking.post("/tokenize", json=body)
        except httpx.TransportError:
            return None  # the answer itself will say what is wrong
        self._counts = answer.status_code not in (404, 405, 501)
        count = _json(answer).get("count") if answer.status_code == httpx.codes.OK else None
        return count if isinstance(count, int) else None


def connect(settings: Settings) -> HttpEngine:
    """Waits until the server is ready, and looks at what it serves.

    Raises:
        SettingsError: It is not on this machine, does not become ready, or does not serve what is configured.
    """
    url = (settings.chat_engine_url or "").removesuffix("/v1")
    if not is_loopback(urlsplit(url).hostname or ""):
        raise SettingsError(
            "CHAT_ENGINE_URL does not lead to this machine. Conversations go there in the clear: use http://127.0.0.1:PORT."
        )
    with _client(url) as client:
        _wait(client, settings.chat_engine_start)
        listed = _list_models(client)
    model = settings.chat_engine_model or (next(iter(listed)) if len(listed) == 1 else None)
    if model is None or (listed and model not in listed):
        raise SettingsError(f"CHAT_ENGINE_MODEL must be one of the models that the engine serves: {', '.join(listed) or 'it has none'}.")
    window = settings.chat_engine_context or listed.get(model, {}).get("max_model_len")
    if not isinstance(window, int):
        raise SettingsError("The engine does not say how many tokens its model holds. Please set CHAT_ENGINE_CONTEXT.")
    served = Served(model, window, extensions=settings.chat_engine_extensions)
    return HttpEngine(url, served, settings.chat_engine_concurrency, name=settings.chat_instruct_name)


def _list_models(client: httpx.Client) -> dict[str, dict[str, Any]]:
    try:
        models = _json(client.get("/v1/models")).get("data") or ()
    except httpx.TransportError:
        raise SettingsError("The engine at CHAT_ENGINE_URL is ready, but does not list its models at /v1/models.") from None
    return {str(model.get("id")): model for model in models if isinstance(model, dict)}


def _wait(client: httpx.Client, seconds: float) -> None:
    """Returns when the server's `/health` says that it is ready."""
    ends, status = time.monotonic() + seconds, None
    while time.monotonic() < ends:
        try:
            status = client.get("/health").status_code
        except httpx.TransportError:
            status = None  # it does not listen yet
        if status == httpx.codes.OK:
            logger().info("the chat engine is ready", waited=round(seconds - (ends - time.monotonic()), 1))
            return
        time.sleep(_LOOK)
    raise SettingsError(
        f"The engine at CHAT_ENGINE_URL was not ready within {seconds:g} seconds "
        f"({'it does not answer' if status is None else f'/health answers {status}'}). Start it, or raise CHAT_ENGINE_START."
    )


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=httpx.Timeout(_ASK_SECONDS, connect=_CONNECT_SECONDS), trust_env=False)


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
