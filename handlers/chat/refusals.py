"""Errors for requests that are rejected before any work is done, with the same wording in every engine."""

from __future__ import annotations

from collections.abc import Iterable

from handlers.chat.request import ChatRequest
from shared.contract.names import quote_name
from shared.errors import ContextLengthExceeded, ModelUnavailable


def unknown_model(request: ChatRequest, available: Iterable[str]) -> ModelUnavailable:
    """Returns the error for a model that is not on this worker.

    Args:
        request: The rejected request.
        available: The names of the models on this worker.
    """
    return ModelUnavailable(f"Model {quote_name(request.model)} is not installed. Available: {', '.join(sorted(available))}.")


def ensure_supported(request: ChatRequest, fields: Iterable[str]) -> None:
    """Rejects fields that an engine does not support.

    Args:
        request: The request.
        fields: Names among `tools`, `logprobs` and `completion_prompt`.

    Raises:
        ModelUnavailable: One of them is used.
    """
    used = {
        "tools": bool(request.callable_tools) or any(message.uses_tools for message in request.messages),
        "logprobs": request.logprobs,
        "completion_prompt": request.completion_prompt is not None,
    }
    for name in fields:
        if used[name]:
            raise ModelUnavailable(f"The inference server of this worker does not support `{name}`. Omit it.")


def completion_limit(request: ChatRequest, prompt_tokens: int, context_length: int) -> int:
    """Returns the maximum length of a completion: `max_tokens`, or what is left of the context window if the request does not set it.

    Args:
        request: The request.
        prompt_tokens: The length of the prompt.
        context_length: The context window in tokens.

    Raises:
        ContextLengthExceeded: The prompt, or the prompt and a `max_tokens` that the request sets, exceed the context window.
    """
    remaining = context_length - prompt_tokens
    if remaining < 1 or ("max_tokens" in request.model_fields_set and request.max_tokens > remaining):
        raise context_length_exceeded(request, prompt_tokens, context_length)
    return min(request.max_tokens, remaining)


def context_length_exceeded(
    request: ChatRequest, prompt_tokens: int | None, context_length: int, *, at_least: bool = False
) -> ContextLengthExceeded:
    """Returns the error for a prompt and completion that exceed the model's context window.

    Args:
        request: The rejected request.
        prompt_tokens: The length of the prompt; None if it could not be counted.
        context_length: The context window in tokens.
        at_least: Whether the prompt may be longer: counting has stopped at this length.
    """
    if prompt_tokens is None:
        return ContextLengthExceeded(
            f"The conversation and `max_tokens` ({request.max_tokens}) exceed the context window of {request.model} "
            f"({context_length} tokens). Shorten the conversation or reduce `max_tokens`."
        )
    remaining = context_length - prompt_tokens
    remedy = f" or reduce `max_tokens` to {remaining}" if remaining > 0 else ""
    count = f"{'at least ' * at_least}{prompt_tokens} tokens"
    return ContextLengthExceeded(
        f"The conversation ({count}) and `max_tokens` ({request.max_tokens}) exceed the context window of {request.model} "
        f"({context_length} tokens). Shorten the conversation{remedy}."
    )
