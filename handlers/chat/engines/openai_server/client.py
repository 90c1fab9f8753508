"""An inference engine that delegates to an OpenAI-compatible server on this machine, such as vLLM."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import JsonValue

from handlers.chat.engine import ModelInfo
from handlers.chat.engines.openai_server.protocol import build_request_body, continuation, to_messages, used_extensions
from handlers.chat.engines.openai_server.stream import CompletionRequest, OpenAIServerStream
from handlers.chat.refusals import completion_limit, context_length_exceeded, unknown_model
from handlers.chat.request import ChatRequest
from handlers.chat.structured.formats import grammar_of
from shared.errors import ModelUnavailable
from shared.jobs.execution.cancel import CancelToken
from shared.network import Deadline, is_loopback
from shared.settings import Settings, SettingsError
from shared.telemetry import logger

_CONNECT_TIMEOUT = 5.0
_REQUEST_TIMEOUT = 30.0
# Characters per token. A conversation with more cannot fit, and is not sent.
_MAX_CHARACTERS = 128
# Seconds between two health checks at start-up.
_HEALTH_INTERVAL = 0.5


@dataclass(frozen=True)
class ServedModel:
    """The model of a server.

    Attributes:
        name: The server's name for it.
        context_length: Its context window in tokens.
        extensions: Whether the server supports vLLM's extensions of OpenAI's protocol.
    """

    name: str
    context_length: int
    extensions: bool = True


class OpenAIServerEngine:
    """Generates completions through a server.

    Args:
        url: The server's base URL.
        served: The server's model.
        max_concurrency: The number of completions to request at once.
        name: The name that requests use for the model.
    """

    def __init__(self, url: str, served: ServedModel, max_concurrency: int, *, name: str = "qwen_instruct") -> None:
        self._name = name
        self._served = served
        self.max_concurrency = max_concurrency
        self._has_tokenize_route = True  # until the server proves otherwise
        self._client = _create_client(url)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chat-engine", daemon=True)
        self._thread.start()
        self._slots = asyncio.Semaphore(max_concurrency)
        # No read timeout: a busy server may pause between two tokens, and the job's own deadline limits the wait.
        timeout = httpx.Timeout(None, connect=_CONNECT_TIMEOUT)
        # A new connection per completion: a pooled one may be closed by the server at the moment it is reused.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._streaming_client = httpx.AsyncClient(base_url=url, timeout=timeout, limits=limits, trust_env=False)

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """The one model that the server is used for."""
        return {self._name: ModelInfo(self._served.context_length)}

    @property
    def device(self) -> Mapping[str, JsonValue]:
        """Unknown: the device is the server's."""
        return {}

    def check(self, request: ChatRequest) -> None:
        """Rejects a request that can never be completed. Whether a response format is supported is left to the server."""
        if request.model != self._name:
            raise unknown_model(request, self.models)
        if not self._served.extensions and (name := next(iter(used_extensions(request)), None)) is not None:
            raise ModelUnavailable(f"The inference server does not support `{name}`. Omit it.")
        grammar_of(request.constraint)  # the server would compile an unbounded schema
        self._completion_limit(request)

    def submit(self, request: ChatRequest, cancel: CancelToken) -> OpenAIServerStream:
        """Requests a completion from the server."""
        completion_request = CompletionRequest(
            build_request_body(request, self._served.name, self._completion_limit(request), extensions=self._served.extensions),
            too_long=context_length_exceeded(request, None, self._served.context_length),
            # A stop string may truncate valid JSON.
            ensure_json=request.constraint is not None and request.constraint.kind == "json" and not request.stop,
        )
        return OpenAIServerStream(completion_request, cancel, self._loop, self._streaming_client, self._slots)

    def close(self) -> None:
        """Closes all connections."""
        asyncio.run_coroutine_threadsafe(self._streaming_client.aclose(), self._loop).result(_CONNECT_TIMEOUT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._client.close()

    def _completion_limit(self, request: ChatRequest) -> int:
        context_length = self._served.context_length
        if sum(len(message.content) for message in request.messages) > context_length * _MAX_CHARACTERS:
            raise context_length_exceeded(request, None, context_length)
        return completion_limit(request, self._count_tokens(request) or 0, context_length)

    def _count_tokens(self, request: ChatRequest) -> int | None:
        """Returns the prompt's length in tokens, if the server has vLLM's `/tokenize` route."""
        if not self._has_tokenize_route:
            return None
        body = {"model": self._served.name, "messages": to_messages(request), **continuation(request)}
        try:
            response = self._client.post("/tokenize", json=body)
        except httpx.TransportError:
            return None  # the completion request will report the failure
        self._has_tokenize_route = response.status_code not in (404, 405, 501)
        count = _json_object(response).get("count") if response.status_code == httpx.codes.OK else None
        return count if isinstance(count, int) else None


def connect(settings: Settings) -> OpenAIServerEngine:
    """Waits until the server is ready, and discovers its model.

    Raises:
        SettingsError: The server is not on this machine, does not become ready, or does not serve the configured model.
    """
    url = (settings.chat_engine_url or "").removesuffix("/v1")
    if not is_loopback(urlsplit(url).hostname or ""):
        raise SettingsError(
            "CHAT_ENGINE_URL must point to this machine, such as http://127.0.0.1:PORT: conversations are sent to it unencrypted."
        )
    with _create_client(url) as client:
        _wait_until_ready(client, settings.chat_engine_start)
        available = _list_models(client)
    model = settings.chat_engine_model or (next(iter(available)) if len(available) == 1 else None)
    if model is None or (available and model not in available):
        raise SettingsError(f"CHAT_ENGINE_MODEL must be one of the models that the server lists: {', '.join(available) or 'none'}.")
    context_length = settings.chat_engine_context or available.get(model, {}).get("max_model_len")
    if not isinstance(context_length, int):
        raise SettingsError("The inference server does not report its context window. Set CHAT_ENGINE_CONTEXT.")
    served = ServedModel(model, context_length, extensions=settings.chat_engine_extensions)
    return OpenAIServerEngine(url, served, settings.chat_engine_concurrency, name=settings.chat_instruct_name)


def _list_models(client: httpx.Client) -> dict[str, dict[str, Any]]:
    try:
        models = _json_object(client.get("/v1/models")).get("data") or ()
    except httpx.TransportError:
        raise SettingsError("The inference server at CHAT_ENGINE_URL is ready, but does not list its models at /v1/models.") from None
    return {str(model.get("id")): model for model in models if isinstance(model, dict)}


def _wait_until_ready(client: httpx.Client, timeout: float) -> None:
    """Polls the server's `/health` until it returns 200."""
    deadline, status = Deadline(timeout), None
    while not deadline.expired:
        try:
            status = client.get("/health").status_code
        except httpx.TransportError:
            status = None  # not listening yet
        if status == httpx.codes.OK:
            logger().info("inference server ready", waited=round(timeout - deadline.remaining, 1))
            return
        time.sleep(_HEALTH_INTERVAL)
    raise SettingsError(
        f"The inference server at CHAT_ENGINE_URL was not ready within {timeout:g} seconds "
        f"({'no response' if status is None else f'/health returned {status}'}). Start it or increase CHAT_ENGINE_START."
    )


def _create_client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=httpx.Timeout(_REQUEST_TIMEOUT, connect=_CONNECT_TIMEOUT), trust_env=False)


def _json_object(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
