"""The sampling state of one sequence."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.chat.engines.transformers.grammar import Grammar
from handlers.chat.engines.transformers.logprobs import SampledLogprob
from handlers.chat.engines.transformers.sampling.penalties import TokenPenalties
from handlers.chat.request import ChatRequest

# A lower temperature than this changes nothing: in single precision any two distinct logits are already infinitely far apart.
_MIN_TEMPERATURE = 1e-30


class Sampler:
    """The sampling state of one sequence. All parameters come from the request; the model's generation config is not used.

    Args:
        request: Temperature, top-p, penalties and seed.
        prompt: The prompt's token ids, to which the repetition penalty applies, too.
        grammar: Constrains the tokens; None for free text.
        eos_token_ids: Tokens that are not sampled before `min_tokens`.

    Attributes:
        temperature: 0 for greedy decoding, else 1e-30 or more.
        penalties: The tokens that are penalised.
        bias_ids: Ids of tokens with a bias.
        biases: The bias of each.
        top_logprobs: How many alternatives are reported with a token's log probability; None: it is not reported.
        sampled_logprob: The log probability of the token that was sampled last, if it is reported.
    """

    def __init__(self, request: ChatRequest, prompt: Sequence[int], grammar: Grammar | None, eos_token_ids: Collection[int] = ()) -> None:
        self.temperature = max(request.temperature, _MIN_TEMPERATURE) if request.temperature > 0 else 0.0
        self.top_p, self.top_k, self.min_p = request.top_p, max(0, request.top_k), request.min_p
        self.grammar = grammar
        self.penalties = TokenPenalties(request, prompt)
        self.bias_ids = np.array([int(token) for token in request.logit_bias], np.int64)
        self.biases = np.array(list(request.logit_bias.values()), np.float64)
        self.top_logprobs = request.top_logprobs if request.logprobs else None
        self.sampled_logprob: SampledLogprob | None = None
        self._banned, self._banned_steps = np.array(sorted(eos_token_ids), np.int64), request.min_tokens
        # A CPU generator per request: reproducible across machines and batch compositions.
        self._generator = random.Random(request.seed)
        self._uniform: float | None = None

    @property
    def uniform(self) -> float:
        """The random number of the next token, in [0, 1). It stays the same until a token is accepted."""
        if self._uniform is None:
            self._uniform = self._generator.random()
        return self._uniform

    @property
    def banned_ids(self) -> NDArray[Any]:
        """The ids of tokens that may not come next. Those of a sequence with a grammar are in its mask."""
        return self._banned[:0] if self.grammar is not None or self._banned_steps <= 0 else self._banned

    def grammar_mask(self, vocabulary_size: int) -> NDArray[np.uint8] | None:
        """Returns the tokens that the grammar allows next, as `Grammar.allowed_tokens` does; None if there is no grammar.

        Raises:
            GenerationError: The grammar has failed, or takes too long.
        """
        if self.grammar is None:
            return None
        allowed = self.grammar.allowed_tokens(vocabulary_size)
        if self._banned_steps <= 0:
            return allowed
        remaining, banned = allowed.copy(), self._banned[self._banned < vocabulary_size]
        np.bitwise_and.at(remaining, banned >> 3, (255 ^ (1 << (banned & 7))).astype(np.uint8))
        # The end of the completion is excluded, unless the grammar allows nothing else.
        return remaining if remaining.any() else allowed

    def accept(self, token: int) -> None:
        """Updates counts, random numbers and grammar with a sampled token."""
        self._uniform = None
        self._banned_steps -= 1
        self.penalties.accept(token)
        if self.grammar is not None:
            self.grammar.accept(token)
