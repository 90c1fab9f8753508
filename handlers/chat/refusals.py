"""Why a request is refused before any work, in the words that every engine uses."""

from __future__ import annotations

from collections.abc import Iterable

from handlers.chat.request import ChatRequest
from shared.contract.names import quote_name
from shared.errors import ContextLengthExceeded, ModelUnavailable


def no_such_model(request: ChatRequest, names: Iterable[str]) -> ModelUnavailable:
    """The model that is asked for is not on this worker.

    Args:
        request: What was asked.
        names: The models that are.
    """
    return ModelUnavailable(f"This worker has no model {quote_name(request.model)}; it has {', '.join(sorted(names))}.")


def too_long(request: ChatRequest, prompt: int | None, window: int) -> ContextLengthExceeded:
    """Prompt and answer are longer than the model's context window.

    Args:
        request: What was asked.
        prompt: The conversation's tokens, where they could be counted.
        window: How many tokens the model holds.
    """
    if prompt is None:
        return ContextLengthExceeded(
            f"The conversation and the {request.max_tokens} tokens that max_tokens asks for are more than the {window} that "
            f"{request.model} holds. Shorten the conversation, or ask for fewer tokens."
        )
    return ContextLengthExceeded(
        f"The conversation has {prompt} tokens and max_tokens asks for {request.max_tokens} more, but {request.model} holds "
        f"{window}. Shorten the conversation, or ask for at most {max(window - prompt, 0)} tokens."
    )
