"""The state of one sequence, from its prompt to its finished completion."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from handlers.chat.detokenizer import IncrementalDetokenizer
from handlers.chat.engine import Completion, Delta, FinishReason
from handlers.chat.engines.transformers.containment import Containment
from handlers.chat.engines.transformers.kv_cache import KVCache
from handlers.chat.engines.transformers.logprobs import TokenDescriber
from handlers.chat.engines.transformers.sampling.sampler import Sampler
from handlers.chat.engines.transformers.stream import SequenceStream
from handlers.chat.logprobs import TokenLogprob
from handlers.chat.prompt_renderer import Prompt
from handlers.chat.repetition import RepetitionDetector
from shared.errors import Cancelled, JobError
from shared.jobs.execution.cancel import CancelToken


@dataclass(frozen=True)
class DecodingParams:
    """How tokens are sampled, detokenised and ended.

    Attributes:
        sampler: Samples the next token.
        detokenizer: Turns tokens into text and finds stop strings.
        eos_token_ids: Tokens that end the completion.
        max_tokens: The maximum length of the completion.
        min_tokens: Until so many tokens, no stop string and no repetition ends the completion.
        repetition: Ends the completion once it repeats itself; None disables this.
        describer: Describes the tokens whose log probabilities are reported.
    """

    sampler: Sampler
    detokenizer: IncrementalDetokenizer
    eos_token_ids: Collection[int]
    max_tokens: int
    describer: TokenDescriber
    min_tokens: int = 0
    repetition: RepetitionDetector | None = None


class SequenceState:
    """A sequence that is waiting, in prefill or in decode. Owned by the engine thread once submitted.

    Args:
        model: The name of the model that generates it.
        prompt: The tokenised prompt.
        params: The decoding parameters.
        cancel: The job's cancel token.

    Attributes:
        prompt: The prompt's token ids.
        prefix_length: Leading prompt tokens that form its shared prefix; 0 for none.
        sampler: Samples its next token.
        stream: Where its deltas go.
        length: Tokens of prompt and completion whose keys and values are computed.
        last_token: The token that was generated last, the input of the next decode step.
        prefix: The keys and values of the shared prefix, until they have been copied to a prefill cache.
    """

    def __init__(self, model: str, prompt: Prompt, params: DecodingParams, cancel: CancelToken) -> None:
        self.model = model
        self.prompt = prompt.ids
        self.prefix_length = prompt.prefix_length
        self.sampler = params.sampler
        self.stream = SequenceStream()
        self.length = 0
        self.last_token = -1
        self.prefix: KVCache | None = None
        self._params = params
        self._cancel = cancel
        self._cached_tokens = 0
        self._completion_tokens = 0
        self._emitted = 0  # characters
        self._logprobs: list[TokenLogprob] = []  # not emitted yet
        self._submitted = time.perf_counter()
        self._time_to_first_token: float | None = None

    @property
    def max_length(self) -> int:
        """The positions that it may come to occupy in the KV cache."""
        return len(self.prompt) + self._params.max_tokens

    @property
    def remaining_prompt(self) -> Sequence[int]:
        """The part of the prompt that has not been prefilled."""
        return self.prompt[self.length :]

    def attach_prefix(self, prefix: KVCache, *, cached: bool) -> None:
        """Skips the prefill of the shared prefix.

        Args:
            prefix: Its keys and values, a cache of one row.
            cached: Whether another request computed them.
        """
        self.prefix = prefix
        self.length = self.prefix_length
        self._cached_tokens = self.prefix_length if cached else 0

    def reap_if_cancelled(self) -> bool:
        """Ends the sequence if its job was cancelled or has timed out, or its stream was abandoned. Returns whether it did."""
        try:
            if self.stream.abandoned:
                raise Cancelled("The stream was closed.")
            self._cancel.check()
        except JobError as error:
            self.fail(error)
            return True
        return False

    def append(self, token: int | JobError) -> bool:
        """Appends a sampled token. Returns whether the sequence has ended.

        Args:
            token: Its id, or the error with which sampling has failed.
        """
        ended = True
        with (containment := Containment()):
            if isinstance(token, JobError):
                raise token
            ended = self._append(token)
        if containment.error is not None:
            self.fail(containment.error)
        return ended

    def _append(self, token: int) -> bool:
        if self._time_to_first_token is None:
            self._time_to_first_token = time.perf_counter() - self._submitted
        if token in self._params.eos_token_ids:
            return self._complete("stop")
        self.last_token = token
        self._completion_tokens += 1
        if self.sampler.sampled_logprob is not None:
            self._logprobs.append(self._params.describer.describe(self.sampler.sampled_logprob))
        self._params.detokenizer.add(token, may_stop=self._completion_tokens > self._params.min_tokens)
        if (reason := self._finish_reason(token)) is not None:
            return self._complete(reason)
        self._emit(self._params.detokenizer.stable_text)
        return False

    def fail(self, error: JobError) -> None:
        """Ends the sequence with an error."""
        self.stream.fail(error)

    def _finish_reason(self, token: int) -> FinishReason | None:
        detokenizer, repetition, grammar = self._params.detokenizer, self._params.repetition, self.sampler.grammar
        repeats = repetition is not None and repetition.add(token, detokenizer.text)
        repeats = repeats and self._completion_tokens >= self._params.min_tokens
        if detokenizer.stopped or repeats or (grammar is not None and grammar.complete):
            return "stop"
        return "length" if self._completion_tokens == self._params.max_tokens else None

    def _emit(self, text: str) -> None:
        self.stream.put(Delta(text[self._emitted :], self._completion_tokens, tuple(self._logprobs)))
        self._emitted = len(text)
        self._logprobs.clear()

    def _complete(self, reason: FinishReason) -> bool:
        text, repetition = self._params.detokenizer.text, self._params.repetition
        self._emit(text)
        completion = Completion(
            text=text,
            finish_reason=reason,
            prompt_tokens=len(self.prompt),
            completion_tokens=self._completion_tokens,
            seconds=time.perf_counter() - self._submitted,
            time_to_first_token=self._time_to_first_token or 0.0,
            cached_tokens=self._cached_tokens,
            repetition_detected=repetition is not None and repetition.detected,
        )
        self.stream.complete(completion)
        return True
