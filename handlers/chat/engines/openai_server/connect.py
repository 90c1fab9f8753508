"""Connects to a server that others run: waits until it is ready, and discovers its model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx

from handlers.chat.engines.openai_server.connection import create_client
from handlers.chat.engines.openai_server.engine import OpenAIServerEngine
from handlers.chat.engines.openai_server.health import Probing
from handlers.chat.engines.openai_server.messages_model import MessagesModel, ServerModel, json_object
from shared.network import Deadline, is_loopback
from shared.settings import Settings, SettingsError
from shared.telemetry import logger

# Seconds between two health checks at start-up.
_HEALTH_INTERVAL = 0.5
_HEALTH_TIMEOUT = 5.0


def connect(settings: Settings, probing: Probing | None = None) -> OpenAIServerEngine:
    """Waits until the server is ready, and discovers its model.

    Args:
        settings: The operator's settings.
        probing: How the server is watched.

    Raises:
        SettingsError: The server is not on this machine, does not become ready, or does not serve the configured model.
    """
    url = (settings.chat_engine_url or "").removesuffix("/v1")
    if not is_loopback(urlsplit(url).hostname or ""):
        raise SettingsError(
            "CHAT_ENGINE_URL must point to this machine, such as http://127.0.0.1:PORT: conversations are sent to it unencrypted."
        )
    with create_client(url) as client:
        status = wait_until_ready(client, settings.chat_engine_start)
        if status != httpx.codes.OK:
            raise SettingsError(
                f"The inference server at CHAT_ENGINE_URL was not ready within {settings.chat_engine_start:g} seconds "
                f"({'no response' if status is None else f'/health returned {status}'}). Start it or increase CHAT_ENGINE_START."
            )
        available = _list_models(client)
    served, concurrency = _choose_model(settings, available), settings.chat_engine_concurrency
    return OpenAIServerEngine({settings.chat_instruct_name: MessagesModel(url, served, concurrency, probing)}, concurrency)


def _choose_model(settings: Settings, available: dict[str, dict[str, Any]]) -> ServerModel:
    name = settings.chat_engine_model or (next(iter(available)) if len(available) == 1 else None)
    if name is None or (available and name not in available):
        raise SettingsError(f"CHAT_ENGINE_MODEL must be one of the models that the server lists: {', '.join(available) or 'none'}.")
    context_length = settings.chat_engine_context or available.get(name, {}).get("max_model_len")
    if not isinstance(context_length, int):
        raise SettingsError("The inference server does not report its context window. Set CHAT_ENGINE_CONTEXT.")
    return ServerModel(name, context_length, extensions=settings.chat_engine_extensions)


def _list_models(client: httpx.Client) -> dict[str, dict[str, Any]]:
    try:
        models = json_object(client.get("/v1/models")).get("data") or ()
    except httpx.TransportError:
        raise SettingsError("The inference server at CHAT_ENGINE_URL is ready, but does not list its models at /v1/models.") from None
    return {str(model.get("id")): model for model in models if isinstance(model, dict)}


def wait_until_ready(client: httpx.Client, timeout: float, exited: Callable[[], bool] = lambda: False) -> int | None:
    """Polls a server's `/health` until it returns 200.

    Args:
        client: A client of the server.
        timeout: Seconds to wait.
        exited: Returns whether the server's process has ended; then there is no point in waiting.

    Returns:
        The last status: 200 if the server is ready; None if it has never responded.
    """
    deadline, status = Deadline(timeout), None
    while not deadline.expired and not exited():
        with contextlib.suppress(httpx.TransportError):  # not listening yet, or busy
            status = client.get("/health", timeout=min(_HEALTH_TIMEOUT, deadline.remaining)).status_code
        if status == httpx.codes.OK:
            logger().info("inference server ready", waited=round(timeout - deadline.remaining, 1))
            break
        time.sleep(_HEALTH_INTERVAL)
    return status
