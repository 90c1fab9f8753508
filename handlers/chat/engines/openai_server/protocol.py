"""What goes to an OpenAI-compatible server and what comes back: bodies, chunks, refusals."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, Field

from handlers.chat.request import ChatRequest
from shared.contract.names import show_name
from shared.errors import ContextLengthExceeded, GenerationError, InternalError, JobError, ModelUnavailable, Problem, ValidationError
from shared.telemetry import logger

# Statuses of a server that may answer the next time.
_BUSY = frozenset({408, 409, 425, 429})
# Statuses that say that the server does not have what the operator has configured, or not for this worker.
_NOT_SERVED = frozenset({401, 403, 404, 405})


class _Details(BaseModel):
    cached_tokens: int | None = None


class Usage(BaseModel):
    """Tokens that were read and written."""

    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details | None = None


class _Delta(BaseModel):
    content: str | None = Field(None, repr=False)


class _Choice(BaseModel):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class Chunk(BaseModel):
    """One chunk of a streamed answer."""

    choices: list[_Choice] = []
    usage: Usage | None = None

    @property
    def text(self) -> str:
        """What it adds."""
        return "".join(choice.delta.content or "" for choice in self.choices)

    @property
    def finish_reason(self) -> Literal["stop", "length"] | None:
        """How the answer ended, where it did.

        Raises:
            GenerationError: In a way that is no end of a text.
        """
        reasons = [choice.finish_reason for choice in self.choices if choice.finish_reason is not None]
        match reasons:
            case []:
                return None
            case ["stop" | "length" as reason]:
                return reason
        raise GenerationError("The engine beside this worker broke the answer off. Send the job again.")


def messages_of(request: ChatRequest) -> list[dict[str, str]]:
    """The conversation as servers want it."""
    return [{"role": message.role, "content": message.content} for message in request.messages]


def completion_body(request: ChatRequest, model: str, *, extensions: bool = True) -> dict[str, Any]:
    """A chat request as the server is asked for it. Every field that chooses tokens is there: a server has defaults of its own otherwise.

    `top_p` 0, which keeps only the likeliest token, is sent as `temperature` 0, which takes it: servers want `top_p` above 0.

    Args:
        request: What to write.
        model: What the server calls the model.
        extensions: Whether it knows the fields that vLLM has beside OpenAI's.
    """
    greedy = request.top_p == 0.0 or request.temperature == 0.0
    body: dict[str, Any] = {
        "model": model,
        "messages": messages_of(request),
        "max_tokens": request.max_tokens,
        "temperature": 0.0 if greedy else request.temperature,
        "top_p": 1.0 if greedy else request.top_p,
        "seed": request.seed,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "n": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if extensions:
        # Models bring values of their own for these, which vLLM takes from their generation config.
        body |= {"top_k": -1, "min_p": 0.0, "repetition_penalty": request.repetition_penalty}
    if request.stop:
        body["stop"] = list(request.stop)
    if (form := request.response_format).type == "json_object":
        body["response_format"] = {"type": "json_object"}
    elif form.json_schema is not None:
        schema = {"name": form.json_schema.name or "answer", "schema": form.json_schema.definition, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def read_chunk(data: str, too_long: ContextLengthExceeded) -> Chunk:
    """Reads one event of a stream.

    Args:
        data: What the event holds.
        too_long: As for `refusal`.

    Raises:
        GenerationError: It is no chunk.
        JobError: It is an error, as `refusal` says.
    """
    try:
        content = json.loads(data)
        if isinstance(content, dict) and ("error" in content or content.get("object") == "error"):
            code = _said(content).get("code")
            raise refusal(code if isinstance(code, int) else 500, data, too_long)
        return Chunk.model_validate(content)
    except ValueError:  # pydantic's errors are of this kind, too
        raise broken_off() from None


def broken_off() -> GenerationError:
    """The stream has ended before the answer had."""
    return GenerationError("The engine beside this worker broke off in the middle of the answer. Send the job again.")


def ensure_json(text: str) -> None:
    """Refuses an answer that has not the form that was asked for.

    Raises:
        GenerationError: It is not JSON.
    """
    if _parsed(text) is None and text.strip() != "null":
        raise GenerationError("The engine beside this worker has not kept to response_format.", retryable=False)


def refusal(status: int, content: str | bytes, too_long: ContextLengthExceeded) -> JobError:
    """Says why a server has not answered. Its own words may repeat the conversation: they stay in the log, at DEBUG.

    Args:
        status: The HTTP status, or the code within a stream.
        content: The body.
        too_long: What to say where the conversation does not fit.
    """
    logger().debug("the engine refused", http_status=status, body=str(content))
    if status in _BUSY:
        return InternalError("The engine beside this worker is busy. Send the job again.")
    if not 400 <= status < 500:
        return InternalError("The engine beside this worker failed. Send the job again.")
    if status in _NOT_SERVED:
        return ModelUnavailable("The engine beside this worker does not serve what is asked of it. Its operator should look at its log.")
    said = _said(_parsed(content))
    if said.get("code") == "context_length_exceeded" or "context length" in str(said.get("message")).lower():
        return too_long
    field = show_name(said["param"]) if isinstance(said.get("param"), str) else "input"
    return ValidationError([Problem(field, "what it refuses", "what the engine beside this worker accepts")])


def _parsed(content: str | bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _said(body: object) -> dict[str, Any]:
    """The object that says what is wrong, in either of the two shapes that servers use."""
    inner = body.get("error", body) if isinstance(body, dict) else None
    return inner if isinstance(inner, dict) else {}
