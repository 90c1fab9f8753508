"""Constrained decoding: grammars that only allow tokens of a JSON value, optionally one that conforms to a schema."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from typing import Any

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from handlers.chat.response_format import Constraint
from handlers.chat.structured.formats import grammar_of
from handlers.chat.tools.tags import with_tag_tokens
from shared.errors import GenerationError, ModelUnavailable
from shared.telemetry import logger

_MAX_COMPILED = 32  # grammars that are kept
# Seconds of processor time for one token. All sequences of the batch wait for it.
_MAX_MASK_TIME = 0.25


class Grammar:
    """The grammar state of one completion.

    Args:
        matcher: An `llguidance.LLMatcher`.
    """

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed_tokens(self, vocabulary_size: int) -> NDArray[np.uint8]:
        """Returns which tokens may come next: one bit for each, the lowest bit of a byte first."""
        started = time.thread_time()
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)[: -(-vocabulary_size // 8)].copy()
        if vocabulary_size % 8:
            bits[-1] &= (1 << vocabulary_size % 8) - 1
        self._ensure_intact()
        if time.thread_time() - started > _MAX_MASK_TIME:
            raise GenerationError("The schema or pattern takes too long to follow. Simplify it.", retryable=False)
        return bits

    def accept(self, token: int) -> None:
        """Advances by one of the allowed tokens."""
        self._matcher.consume_token(token)
        self._ensure_intact()

    @property
    def complete(self) -> bool:
        """Whether no token can follow."""
        return bool(self._matcher.is_stopped())

    def _ensure_intact(self) -> None:
        """A matcher raises nothing: it enters an error state, in which it only allows the completion to end."""
        if self._matcher.is_error():
            logger().debug("grammar failed", reason=self._matcher.get_error())
            raise GenerationError("The completion could not follow its schema or pattern to the end. Simplify it, or send the job again.")


class GrammarCompiler:
    """Compiles constraints for one model.

    Args:
        tokenizer: The model's fast tokenizer.
        vocabulary_size: The number of token ids of the model, including padding of the embedding.
        eos_token_ids: Tokens that end a completion.
    """

    def __init__(self, tokenizer: Any, vocabulary_size: int, eos_token_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size
        self._eos_token_ids = sorted(eos_token_ids)
        self._ll_tokenizer: Any = None
        self._matchers: LRUCache[str, Any] = LRUCache(_MAX_COMPILED)
        self._lock = threading.Lock()

    def compile(self, constraint: Constraint | None) -> Grammar | None:
        """Compiles a constraint, which has been compiled in the sandbox before; returns None for free text.

        Raises:
            ModelUnavailable: The model's tokenizer is of a kind that cannot be constrained.
            ValidationError: The constraint is not supported.
        """
        if constraint is None or (grammar := grammar_of(constraint)) is None:
            return None
        with self._lock:
            matcher = self._matchers.get(grammar)
        if matcher is None:
            matcher = self._compile(grammar, constraint.field)
            with self._lock:
                self._matchers[grammar] = matcher
        return Grammar(matcher.deep_copy())

    def _compile(self, grammar: str, field: str) -> Any:
        # Imported and initialised lazily: it takes a second or two, and most workers never need it.
        from llguidance import LLMatcher

        try:
            tokenizer = self._initialized_tokenizer()
        except ValueError as error:  # its decoder is neither byte-level nor has byte fallback
            logger().warning("tokenizer cannot be constrained", reason=str(error)[:200])
            name = field.partition(".")[0]
            raise ModelUnavailable(f"This model's tokenizer cannot follow a schema, choice or pattern. Omit `{name}`.") from None
        return LLMatcher(tokenizer, with_tag_tokens(grammar, self._tokenizer), log_level=0)

    def _initialized_tokenizer(self) -> Any:
        from llguidance.hf import from_tokenizer

        with self._lock:
            if self._ll_tokenizer is None:
                self._ll_tokenizer = from_tokenizer(self._tokenizer, n_vocab=self._vocabulary_size, eos_token=self._eos_token_ids)
            return self._ll_tokenizer
