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


def context_length_exceeded(request: ChatRequest, prompt_tokens: int | None, context_length: int) -> ContextLengthExceeded:
    """Returns the error for a prompt and completion that exceed the model's context window.

    Args:
        request: The rejected request.
        prompt_tokens: The length of the prompt; None if it could not be counted.
        context_length: The context window in tokens.
    """
    if prompt_tokens is None:
        return ContextLengthExceeded(
            f"The conversation and `max_tokens` ({request.max_tokens}) exceed the context window of {request.model} "
            f"({context_length} tokens). Shorten the conversation or reduce `max_tokens`."
        )
    remaining = context_length - prompt_tokens
    remedy = f" or reduce `max_tokens` to {remaining}" if remaining > 0 else ""
    return ContextLengthExceeded(
        f"The conversation ({prompt_tokens} tokens) and `max_tokens` ({request.max_tokens}) exceed the context window of {request.model} "
        f"({context_length} tokens). Shorten the conversation{remedy}."
    )
