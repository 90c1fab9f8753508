"""An engine beside the process, and what it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from handlers.chat.engine import Completion
from handlers.chat.engines.openai_server.client import OpenAIServerEngine, connect
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
    engine = connect(configured(server))
    yield engine
    engine.close()


def configured(server: OpenAIServer, **changes: Any) -> Settings:
    settings: dict[str, Any] = {"chat_engine_url": server.url, "chat_engine_concurrency": 4, "chat_engine_start": 5.0}
    return Settings(**settings | changes)


def write(
    engine: OpenAIServerEngine, request: ChatRequest | None = None, cancel: CancelToken | None = None
) -> tuple[list[str], Completion]:
    asked = request or chat("hello")
    engine.check(asked)
    with engine.start(asked, cancel or CancelToken(30)) as stream:
        texts = [piece.text for piece in stream]
        return texts, stream.finished


def started(asked: ScriptedRequest) -> ScriptedRequest:
    asked.begin()
    asked.chunk("some ")
    return asked
