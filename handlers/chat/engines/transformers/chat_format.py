"""The text side of a chat model: prompt rendering, decoding parameters and grammars. Nothing here uses the GPU."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from handlers.chat.detokenizer import IncrementalDetokenizer
from handlers.chat.engines.transformers.grammar import GrammarCompiler
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.engines.transformers.repetition import RepetitionDetector
from handlers.chat.engines.transformers.sampler import Sampler
from handlers.chat.engines.transformers.sequence import DecodingParams, Prompt
from handlers.chat.messages import Message
from handlers.chat.prompts import BASE_MODEL_STOPS, render_chat_template, render_transcript, shared_prefix_length
from handlers.chat.request import ChatRequest
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
class ModelSpec:
    """A model that an engine serves, and how to load it.

    Attributes:
        name: The name that requests use.
        load: Loads the model; raises `WeightsError` if it cannot.
        transcript: Whether it is a base model, prompted with a transcript instead of a chat template.
        revision: The commit of its weights, if known.
    """

    name: str
    load: Callable[[], ChatModel]
    transcript: bool = False
    revision: str | None = None


class ChatFormat:
    """One model's tokenizer, prompt format and grammar compiler. Thread-safe.

    Args:
        loaded: The model; only its tokenizer and its configuration are kept.
        transcript: Whether it is a base model.

    Raises:
        SettingsError: The tokenizer is not a fast one, or has no chat template although the model is not a base model.
    """

    def __init__(self, loaded: ChatModel, *, transcript: bool) -> None:
        if not loaded.tokenizer.is_fast or not (transcript or loaded.tokenizer.chat_template):
            raise SettingsError("A chat model needs a tokenizer.json and, unless it is a base model, a chat template in its folder.")
        self._tokenizer = loaded.tokenizer
        self._transcript = transcript
        # A base model was not trained on what follows a control token, so each of them ends its completion.
        special = frozenset(loaded.tokenizer.all_special_ids) if transcript else frozenset()
        self._vocabulary_size = len(loaded.tokenizer)
        self._eos_token_ids = loaded.eos_token_ids | special
        self._grammars = GrammarCompiler(loaded.tokenizer, loaded.model.config.vocab_size, self._eos_token_ids)
        # Requests arrive on many threads, and a fast tokenizer must not be reconfigured while it encodes.
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[object, ...], Prompt] = OrderedDict()

    def check(self, request: ChatRequest) -> None:
        """Rejects a constraint that cannot be compiled, and tokens that the model does not have.

        Raises:
            ValidationError: The constraint is not supported, or a token id is too large.
        """
        self._grammars.compile(request.constraint)
        for field, ids in (("stop_token_ids", request.stop_token_ids), ("logit_bias", map(int, request.logit_bias))):
            if (largest := max(ids, default=0)) >= self._vocabulary_size:
                allowed = f"token ids below {self._vocabulary_size}, the vocabulary of {request.model}"
                raise ValidationError([Problem(field, str(largest), allowed)])

    def length_beyond(self, messages: Sequence[Message], limit: int) -> int | None:
        """Returns a number of tokens above the limit if the conversation certainly has as many; None if it may be shorter.

        A conversation that is far too long is not tokenised to its end: that would take gigabytes.
        """
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

    def render(self, messages: Sequence[Message], *, continues: bool = False) -> Prompt:
        """Tokenises a conversation, or returns the prompt that `keep` has kept for it and releases that.

        Raises:
            ValidationError: The model's chat template rejects the conversation.
        """
        with self._lock:
            return self._kept.pop((continues, *messages), None) or self._render(messages, continues)

    def keep(self, messages: Sequence[Message], prompt: Prompt, *, continues: bool = False) -> None:
        """Keeps the prompt of a validated request until it is submitted, so that a job's conversation is tokenised once."""
        with self._lock:
            self._kept[(continues, *messages)] = prompt
            if len(self._kept) > _MAX_KEPT_PROMPTS:
                self._kept.popitem(last=False)

    def _render(self, messages: Sequence[Message], continues: bool) -> Prompt:
        render = render_transcript if self._transcript else render_chat_template
        ids = render(self._tokenizer, messages, continues=True) if continues else render(self._tokenizer, messages)
        shared = shared_prefix_length(render, self._tokenizer, messages, ids)
        return Prompt(ids, shared if shared >= _MIN_SHARED_PREFIX else 0)

    def decoding_params(self, request: ChatRequest, prompt: Prompt, max_tokens: int) -> DecodingParams:
        """Returns the decoding parameters of a request.

        Args:
            request: The request.
            prompt: Its prompt.
            max_tokens: The maximum length of the completion.
        """
        eos_token_ids = self._eos_token_ids | frozenset(request.stop_token_ids)
        stop = request.stop + (BASE_MODEL_STOPS if self._transcript else ())
        return DecodingParams(
            sampler=Sampler(request, prompt.ids, self._grammars.compile(request.constraint), eos_token_ids),
            detokenizer=IncrementalDetokenizer(self._tokenizer, stop, strip_leading_space=self._transcript),
            eos_token_ids=eos_token_ids,
            min_tokens=request.min_tokens,
            max_tokens=max_tokens,
            repetition=RepetitionDetector() if self._transcript else None,
        )
