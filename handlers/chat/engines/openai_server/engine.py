"""An inference engine that delegates to OpenAI-compatible servers on this machine, one for each model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from pydantic import JsonValue

from handlers.chat.engine import ModelInfo
from handlers.chat.engines.openai_server.connection import ServerConnection
from handlers.chat.engines.openai_server.failures import server_failed
from handlers.chat.engines.openai_server.health import HealthMonitor
from handlers.chat.engines.openai_server.stream import CompletionRequest, OpenAIServerStream
from handlers.chat.refusals import unknown_model
from handlers.chat.request import ChatRequest
from shared.jobs.execution.cancel import CancelToken


class ServedModel(Protocol):
    """A model of a server, and how completions are requested from it."""

    @property
    def info(self) -> ModelInfo:
        """Its context window and revision."""

    @property
    def connection(self) -> ServerConnection:
        """The connection to its server."""

    @property
    def monitor(self) -> HealthMonitor:
        """Watches its server."""

    def check(self, request: ChatRequest) -> None:
        """Rejects a request that can never be completed, as `InferenceEngine.check` does."""

    def completion_request(self, request: ChatRequest) -> CompletionRequest:
        """Returns the request to the server."""

    def close(self) -> None:
        """Ends what belongs to the model, except its connection and monitor."""


class OpenAIServerEngine:
    """Generates completions through servers.

    Args:
        models: The models by the names that requests use.
        max_concurrency: The number of completions that run at once.
        device: What payloads report about the device, if it is known.

    Attributes:
        served: The models by name.
    """

    def __init__(self, models: Mapping[str, ServedModel], max_concurrency: int, device: Mapping[str, JsonValue] | None = None) -> None:
        self.served = dict(models)
        self.max_concurrency = max_concurrency
        self.device = dict(device or {})
        self._lock = threading.Lock()  # guards the two below
        self._failed = False
        self._on_failure: Callable[[], None] = lambda: None
        for model in self.served.values():
            model.connection.on_trouble = model.monitor.probe_now
            model.monitor.start(self._fail)

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """The models that requests may name."""
        return {name: model.info for name, model in self.served.items()}

    def check(self, request: ChatRequest) -> None:
        """Rejects a request that can never be completed."""
        self._model(request).check(request)

    def submit(self, request: ChatRequest, cancel: CancelToken) -> OpenAIServerStream:
        """Requests a completion from the model's server."""
        model = self._model(request)
        return model.connection.open(model.completion_request(request), cancel)

    def watch(self, on_failure: Callable[[], None]) -> None:
        """Calls back once a server has failed."""
        with self._lock:
            self._on_failure = on_failure
            failed = self._failed
        if failed:
            on_failure()

    def close(self) -> None:
        """Closes all connections and ends the servers that belong to this engine."""
        for model in self.served.values():
            model.monitor.close()
            model.connection.close()
            model.close()

    def _model(self, request: ChatRequest) -> ServedModel:
        if (model := self.served.get(request.model)) is None:
            raise unknown_model(request, self.served)
        return model

    def _fail(self) -> None:
        """Answers every job. One server that has failed ends the engine: only a new worker has all models again."""
        with self._lock:
            if self._failed:
                return
            self._failed = True
            on_failure = self._on_failure
        for model in self.served.values():
            model.connection.fail(server_failed())
        on_failure()  # before the servers are ended: one that hangs takes some seconds, in which the worker could take a job
        for model in self.served.values():
            model.close()
