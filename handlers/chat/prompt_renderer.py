"""One model's prompts: conversations as token ids, counted before they are rendered and kept until they are used."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from handlers.chat.messages import Message
from handlers.chat.prompts import render_chat_template, render_transcript, shared_prefix_length
from handlers.chat.refusals import completion_limit, context_length_exceeded
from handlers.chat.request import ChatRequest
from handlers.chat.template_renderer import template_renderer
from handlers.chat.tools.fields import Tool
from handlers.chat.tools.tags import OPENING
from shared.errors import ModelUnavailable, Problem, ValidationError
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


@dataclass(frozen=True)
class Conversation:
    """What a prompt is rendered from.

    Attributes:
        messages: At least one message.
        continues: Whether the last message, of the assistant, is continued instead of answered.
        tools: The tools that the model may call.
        text: The prompt itself, instead of the rest.
    """

    messages: Sequence[Message]
    continues: bool = False
    tools: Sequence[Tool] = ()
    text: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, request: ChatRequest) -> Conversation:
        """Returns the conversation of a request."""
        return cls(request.messages, request.continue_final_message, request.callable_tools, request.completion_prompt)

    @property
    def texts(self) -> Iterator[str]:
        """Everything that a template may render."""
        for message in self.messages:
            yield from (message.content, message.name or "", *(call.function.arguments for call in message.tool_calls))
        yield from (json.dumps(tool.function.to_template(), ensure_ascii=False) for tool in self.tools)

    @property
    def key(self) -> tuple[object, ...]:
        """Identifies its prompt."""
        return (self.continues, self.text, json.dumps([tool.function.to_template() for tool in self.tools]), *self.messages)


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
        self._knows_tools = not transcript and OPENING in str(tokenizer.get_chat_template(tools=[{}]))
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
            ModelUnavailable: The model's template has no tools.
            ContextLengthExceeded: Prompt and `max_tokens` exceed the context window. One that is far too long is not tokenised to
                its end: that would take gigabytes.
            ValidationError: The model's chat template rejects the conversation, or the model does not have a token that is named.
        """
        self._check_tools(request)
        conversation = Conversation.of(request)
        if (length := self._length_beyond(conversation, context_length)) is not None:
            raise context_length_exceeded(request, length, context_length, at_least=True)
        self._check_token_ids(request)
        prompt = self.take(request)
        completion_limit(request, len(prompt.ids), context_length)
        with self._lock:
            self._kept[conversation.key] = prompt
            if len(self._kept) > _MAX_KEPT_PROMPTS:
                self._kept.popitem(last=False)

    def take(self, request: ChatRequest) -> Prompt:
        """Returns the prompt that `check` has kept and releases it, or renders it again.

        Raises:
            ValidationError: The model's chat template rejects the conversation.
        """
        conversation = Conversation.of(request)
        with self._lock:
            return self._kept.pop(conversation.key, None) or self._render(conversation)

    def _render(self, conversation: Conversation) -> Prompt:
        if conversation.text is not None:
            return Prompt(self._tokenizer(conversation.text).input_ids)
        render = partial(self._render_messages, tools=conversation.tools)
        ids = render(conversation.messages, continues=conversation.continues)
        if conversation.messages[0].role != "system" and not conversation.tools:
            return Prompt(ids)
        shared = shared_prefix_length(render, conversation.messages, ids)
        return Prompt(ids, shared if shared >= _MIN_SHARED_PREFIX else 0)

    def _render_messages(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), continues: bool = False) -> list[int]:
        if self._transcript:
            return render_transcript(self._tokenizer, messages, continues=continues)
        return render_chat_template(self._tokenizer, messages, continues=continues, tools=tools)

    def _length_beyond(self, conversation: Conversation, limit: int) -> int | None:
        """Returns a number of tokens above the limit if the conversation certainly has as many; None if it may be shorter."""
        if sum(map(len, conversation.texts)) <= limit * _MIN_CHARACTERS:
            return None
        count = 0
        for text in conversation.texts:
            for start in range(0, len(text), _CHUNK):
                with self._lock:
                    ids = self._tokenizer(text[start : start + _CHUNK], add_special_tokens=False).input_ids
                count += max(0, len(ids) - _CUT_TOKENS)
                if count > limit:
                    return count
        return None

    def _check_tools(self, request: ChatRequest) -> None:
        if not self._knows_tools and (request.callable_tools or any(message.uses_tools for message in request.messages)):
            raise ModelUnavailable(f"The chat template of {request.model} has no tool calls in Qwen's format. Omit `tools`.")

    def _check_token_ids(self, request: ChatRequest) -> None:
        for name, ids in (("stop_token_ids", request.stop_token_ids), ("logit_bias", map(int, request.logit_bias))):
            if (largest := max(ids, default=0)) >= self._vocabulary_size:
                allowed = f"token ids below {self._vocabulary_size}, the vocabulary of {request.model}"
                raise ValidationError([Problem(name, str(largest), allowed)])
