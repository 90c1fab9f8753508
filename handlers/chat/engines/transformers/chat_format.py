"""How a model is written to and how its tokens are read: everything about it that needs no GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from handlers.chat.detokenizer import Answer
from handlers.chat.engines.transformers.grammar import Grammars
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.engines.transformers.repetition import Repetition
from handlers.chat.engines.transformers.sampler import Chooser
from handlers.chat.engines.transformers.sequence import Manner, Prompt
from handlers.chat.prompts import BASE_STOPS, render_template, render_transcript, shared_beginning
from handlers.chat.request import ChatRequest, Message
from shared.settings import SettingsError

# Below this, reading a beginning in a pass of its own costs more than it can save.
_LEAST_SHARED = 64


@dataclass(frozen=True)
class Source:
    """A model that an engine offers.

    Attributes:
        name: What requests call it.
        load: Loads it; raises `SettingsError` when it cannot.
        transcript: Whether it is a base model: written to in transcripts, not in its template.
        revision: The commit of its weights, where it is known.
    """

    name: str
    load: Callable[[], ChatModel]
    transcript: bool = False
    revision: str | None = None


class Voice:
    """One model's tokenizer and what belongs to it.

    Args:
        loaded: The model; only its tokenizer and its configuration are kept.
        transcript: Whether it is a base model.

    Raises:
        SettingsError: The tokenizer cannot be used: it is a slow one, or has no template for conversations.
    """

    def __init__(self, loaded: ChatModel, *, transcript: bool) -> None:
        if not loaded.tokenizer.is_fast or not (transcript or loaded.tokenizer.chat_template):
            raise SettingsError("A chat model needs a tokenizer.json and, unless it is a base model, a chat template beside its weights.")
        self._tokenizer = loaded.tokenizer
        self._transcript = transcript
        # A base model was never taught what comes after a control token, so every one of them ends its text.
        special = frozenset(loaded.tokenizer.all_special_ids) if transcript else frozenset()
        self._ends = loaded.end_ids | special
        self._grammars = Grammars(loaded.tokenizer, loaded.model.config.vocab_size, self._ends)
        # Requests come on many threads, and a fast tokenizer is not to be changed while it is used.
        self._rendering = threading.Lock()

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """What the model reads."""
        render = render_transcript if self._transcript else render_template
        with self._rendering:
            ids = render(self._tokenizer, messages)
            shared = shared_beginning(render, self._tokenizer, messages, ids)
        return Prompt(ids, shared if shared >= _LEAST_SHARED else 0)

    def check(self, request: ChatRequest) -> None:
        """Refuses a form of answers that cannot be followed.

        Raises:
            ValidationError: The schema cannot be followed.
        """
        self._grammars.make(request.response_format)

    def manner(self, request: ChatRequest, prompt: Prompt) -> Manner:
        """How the answer is written."""
        stops = request.stop + (BASE_STOPS if self._transcript else ())
        return Manner(
            chooser=Chooser(request, prompt.ids, self._grammars.make(request.response_format)),
            answer=Answer(self._tokenizer, stops, strips=self._transcript),
            ends=self._ends,
            max_tokens=request.max_tokens,
            repetition=Repetition() if self._transcript else None,
        )
