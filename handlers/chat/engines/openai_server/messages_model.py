"""A model of a server that others run: it gets messages, renders them itself, and may or may not be vLLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from handlers.chat.engine import ModelInfo
from handlers.chat.engines.openai_server.body import chat_body, continuation, to_messages, used_extensions
from handlers.chat.engines.openai_server.connection import ServerConnection, create_client
from handlers.chat.engines.openai_server.failures import RequestContext
from handlers.chat.engines.openai_server.health import HealthMonitor, Probing
from handlers.chat.engines.openai_server.stream import CompletionRequest
from handlers.chat.refusals import completion_limit, context_length_exceeded, ensure_supported
from handlers.chat.request import ChatRequest
from handlers.chat.structured.formats import grammar_of
from shared.errors import ModelUnavailable

CHAT_PATH = "/v1/chat/completions"
# Characters per token. A conversation with more cannot fit, and is not sent.
_MAX_CHARACTERS = 128
# OpenAI's limit, and vLLM's unless VLLM_MAX_STOP_STRINGS is set where it runs. The others are looked for here.
_MAX_STOP_STRINGS = 4


@dataclass(frozen=True)
class ServerModel:
    """What is known of a server's model.

    Attributes:
        name: The server's name for it.
        context_length: Its context window in tokens.
        extensions: Whether the server supports vLLM's extensions of OpenAI's protocol.
    """

    name: str
    context_length: int
    extensions: bool = True


class MessagesModel:
    """A model that gets the messages of a conversation.

    Args:
        url: The server's base URL.
        served: The server's model.
        max_concurrency: The number of completions to request at once.
        probing: How the server is watched.
    """

    def __init__(self, url: str, served: ServerModel, max_concurrency: int, probing: Probing | None = None) -> None:
        self._served = served
        self.info = ModelInfo(served.context_length)
        self.connection = ServerConnection(url, max_concurrency)
        self.monitor = HealthMonitor(url, probing)
        self._has_tokenize_route = True  # until the server proves otherwise
        self._client = create_client(url)

    def check(self, request: ChatRequest) -> None:
        """Rejects a request that can never be completed. The server would compile an unbounded schema, so that is checked here."""
        ensure_supported(request, ("tools", "logprobs", "completion_prompt"))
        if not self._served.extensions and (name := next(iter(used_extensions(request)), None)) is not None:
            raise ModelUnavailable(f"The inference server does not support `{name}`. Omit it.")
        grammar_of(request.constraint)
        self._completion_limit(request)

    def completion_request(self, request: ChatRequest) -> CompletionRequest:
        """Returns the request to the server."""
        extensions, stop = self._served.extensions, request.stop[:_MAX_STOP_STRINGS]
        return CompletionRequest(
            CHAT_PATH,
            chat_body(request, self._served.name, self._completion_limit(request), stop, extensions=extensions),
            RequestContext.of(request, context_length_exceeded(request, None, self._served.context_length)),
            stop=request.stop[_MAX_STOP_STRINGS:],
            min_tokens=request.min_tokens,
        )

    def close(self) -> None:
        """Closes the client; the server belongs to others."""
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
            self.monitor.probe_now()
            return None  # the completion request will report the failure
        self._has_tokenize_route = response.status_code not in (404, 405, 501)
        count = json_object(response).get("count") if response.status_code == httpx.codes.OK else None
        return count if isinstance(count, int) else None


def json_object(response: httpx.Response) -> dict[str, Any]:
    """Returns the JSON object of a response; empty if it has none."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
