"""One model's prompts: conversations as token ids, counted before they are rendered and kept until they are used."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from handlers.chat.messages import Message
from handlers.chat.prompts import render_chat_template, render_transcript, shared_prefix_length
from handlers.chat.refusals import completion_limit, context_length_exceeded
from handlers.chat.request import ChatRequest
from handlers.chat.template_renderer import template_renderer
from shared.errors import Problem, ValidationError
from shared.settings import SettingsError

# Tokens. Prefilling a shorter prefix in a pass of its own costs more than a cache hit saves.
_MIN_SHARED_PREFIX = 64
# As many as a worker can have jobs that are validated and not yet submitted. A job that ends in between leaves its prompt to be evicted.
_MAX_KEPT_PROMPTS = 64
# Characters per token. A conversation with fewer is tokenised without being counted first.
_MIN_CHARACTERS = 4
# Characters that are counted at once, and the tokens by which cutting a text may lengthen it.
_CHUNK, _CUT_TOKENS = 16_384, 8


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt.

    Attributes:
        ids: Token ids.
        prefix_length: Leading tokens that other requests may share, for the prefix cache; 0 for none.
    """

    ids: Sequence[int] = field(repr=False)
    prefix_length: int = 0


class PromptRenderer:
    """Renders conversations with a model's tokenizer. Thread-safe.

    Args:
        tokenizer: A fast tokenizer.
        transcript: Whether the model is a base model, prompted with a transcript instead of a chat template.

    Raises:
        SettingsError: The tokenizer is not a fast one, or has no chat template although the model is not a base model.
    """

    def __init__(self, tokenizer: Any, *, transcript: bool) -> None:
        if not tokenizer.is_fast or not (transcript or tokenizer.chat_template):
            raise SettingsError("A chat model needs a tokenizer.json and, unless it is a base model, a chat template in its folder.")
        if not transcript:
            template_renderer().start()
        self._tokenizer = tokenizer
        self._transcript = transcript
        self._vocabulary_size = len(tokenizer)
        # Requests arrive on many threads, and a fast tokenizer must not be reconfigured while it encodes.
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[object, ...], Prompt] = OrderedDict()

    def check(self, request: ChatRequest, context_length: int) -> None:
        """Renders the prompt of a request that is being validated, and keeps it until `take`: a job's conversation is tokenised once.

        Args:
            request: The request.
            context_length: The context window in tokens.

        Raises:
            ContextLengthExceeded: Prompt and `max_tokens` exceed the context window. One that is far too long is not tokenised to
                its end: that would take gigabytes.
            ValidationError: The model's chat template rejects the conversation, or the model does not have a token that is named.
        """
        if (length := self._length_beyond(request.messages, context_length)) is not None:
            raise context_length_exceeded(request, length, context_length, at_least=True)
        self._check_token_ids(request)
        prompt = self.take(request)
        completion_limit(request, len(prompt.ids), context_length)
        with self._lock:
            self._kept[_key(request)] = prompt
            if len(self._kept) > _MAX_KEPT_PROMPTS:
                self._kept.popitem(last=False)

    def take(self, request: ChatRequest) -> Prompt:
        """Returns the prompt that `check` has kept and releases it, or renders it again.

        Raises:
            ValidationError: The model's chat template rejects the conversation.
        """
        with self._lock:
            return self._kept.pop(_key(request), None) or self._render(request.messages, request.continue_final_message)

    def _render(self, messages: Sequence[Message], continues: bool) -> Prompt:
        render = render_transcript if self._transcript else render_chat_template
        ids = render(self._tokenizer, messages, continues=True) if continues else render(self._tokenizer, messages)
        shared = shared_prefix_length(render, self._tokenizer, messages, ids)
        return Prompt(ids, shared if shared >= _MIN_SHARED_PREFIX else 0)

    def _length_beyond(self, messages: Sequence[Message], limit: int) -> int | None:
        """Returns a number of tokens above the limit if the conversation certainly has as many; None if it may be shorter."""
        if sum(len(message.content) for message in messages) <= limit * _MIN_CHARACTERS:
            return None
        count = 0
        for message in messages:
            for start in range(0, len(message.content), _CHUNK):
                with self._lock:
                    ids = self._tokenizer(message.content[start : start + _CHUNK], add_special_tokens=False).input_ids
                count += max(0, len(ids) - _CUT_TOKENS)
                if count > limit:
                    return count
        return None

    def _check_token_ids(self, request: ChatRequest) -> None:
        for name, ids in (("stop_token_ids", request.stop_token_ids), ("logit_bias", map(int, request.logit_bias))):
            if (largest := max(ids, default=0)) >= self._vocabulary_size:
                allowed = f"token ids below {self._vocabulary_size}, the vocabulary of {request.model}"
                raise ValidationError([Problem(name, str(largest), allowed)])


def _key(request: ChatRequest) -> tuple[object, ...]:
    return (request.continue_final_message, *request.messages)
