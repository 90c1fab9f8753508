"""The forms that an answer may have: JSON, any or of a schema. What does not fit is never written."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handlers.chat.response_format import ResponseFormat
from shared.errors import Problem, ValidationError

_MOST_OF_A_REASON = 200  # characters
# As much white space as people write. Without a limit a model may go on with nothing else until `max_tokens`.
_SPACE = r"[ \t\n\r]{0,20}"


class Grammar:
    """What one answer may go on with.

    Args:
        matcher: Of llguidance.
    """

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self, vocabulary: int) -> Tensor:
        """Which tokens may come next, as booleans on the CPU."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        return torch.from_numpy(np.unpackbits(bits, count=vocabulary, bitorder="little").view(np.bool_))

    def take(self, token: int) -> None:
        """Goes on by one of the allowed tokens."""
        self._matcher.consume_token(token)

    @property
    def complete(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())


class Grammars:
    """The forms that answers of one model can be given.

    Args:
        tokenizer: The model's, a fast one.
        rows: How many tokens the model knows, padding included.
        ends: Tokens that end an answer.
    """

    def __init__(self, tokenizer: Any, rows: int, ends: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._rows = rows
        self._ends = sorted(ends)
        self._made: Any = None
        self._making = threading.Lock()

    def make(self, form: ResponseFormat) -> Grammar | None:
        """Makes the form's grammar; None where the answer is plain text.

        Raises:
            ValidationError: The schema cannot be followed.
        """
        if form.type == "text":
            return None
        # Imported, and the tokenizer translated, when it is first needed: a second or two that most workers never spend.
        from llguidance import LLMatcher

        schema: object = {"type": "object"} if form.json_schema is None else form.json_schema.definition
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_pattern": _SPACE})
        matcher = LLMatcher(self._translated(), grammar, log_level=0)
        if matcher.is_error():
            reason = (str(matcher.get_error()).splitlines() or ["unknown"])[0][:_MOST_OF_A_REASON]
            field, sent = "response_format.json_schema.schema", f"one that cannot be followed ({reason})"
            raise ValidationError([Problem(field, sent, "a JSON Schema whose keywords can be followed token by token")])
        return Grammar(matcher)

    def _translated(self) -> Any:
        from llguidance.hf import from_tokenizer

        with self._making:
            if self._made is None:
                self._made = from_tokenizer(self._tokenizer, n_vocab=self._rows, eos_token=self._ends)
            return self._made
