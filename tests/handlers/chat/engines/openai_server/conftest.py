"""An engine that is connected to a scripted inference server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from handlers.chat.engine import Completion
from handlers.chat.engines.openai_server.connect import connect
from handlers.chat.engines.openai_server.engine import OpenAIServerEngine
from handlers.chat.request import ChatRequest
from shared.jobs.execution.cancel import CancelToken
from shared.settings import Settings
from tests.doubles.openai_server import OpenAIServer, ScriptedRequest
from tests.handlers.conftest import chat


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def engine(server: OpenAIServer) -> Iterator[OpenAIServerEngine]:
    engine = connect(settings_for(server))
    yield engine
    engine.close()


def settings_for(server: OpenAIServer, **changes: Any) -> Settings:
    settings: dict[str, Any] = {"chat_engine_url": server.url, "chat_engine_concurrency": 4, "chat_engine_start": 60.0}
    return Settings(**settings | changes)


def complete(
    engine: OpenAIServerEngine, request: ChatRequest | None = None, cancel: CancelToken | None = None
) -> tuple[list[str], Completion]:
    """Completes one request. Returns the texts of its deltas, and the completion."""
    request = request or chat("hello")
    engine.check(request)
    with engine.submit(request, cancel or CancelToken(60)) as stream:
        texts = [delta.text for delta in stream]
        return texts, stream.completion


def start_streaming(request: ScriptedRequest) -> ScriptedRequest:
    """Sends the head of a stream and its first chunk."""
    request.start_stream()
    request.chunk("some ")
    return request
