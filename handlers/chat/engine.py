"""The interface of an inference engine: requests in, streams of text out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from types import TracebackType
from typing import Literal, Protocol, Self

from pydantic import JsonValue

from handlers.chat.logprobs import TokenLogprob
from handlers.chat.request import ChatRequest
from shared.jobs.execution.cancel import CancelToken

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class ModelInfo:
    """A model that an engine serves.

    Attributes:
        context_length: The context window in tokens, prompt and completion together.
        revision: The commit of its weights, if known.
    """

    context_length: int
    revision: str | None = None


@dataclass(frozen=True)
class Delta:
    """The text generated since the previous delta.

    Attributes:
        text: May be empty. Never contains part of a character or the start of a stop string, so it is never retracted.
        completion_tokens: Tokens generated so far.
        logprobs: Those of the tokens since the previous delta, if they were requested. Their text may follow in a later delta.
    """

    text: str = field(repr=False)
    completion_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()

    @classmethod
    def merged(cls, deltas: Sequence[Delta]) -> Delta:
        """Returns one delta in place of several consecutive ones."""
        logprobs = chain.from_iterable(delta.logprobs for delta in deltas)
        return cls("".join(delta.text for delta in deltas), deltas[-1].completion_tokens, tuple(logprobs))


DELTA_INTERVAL = 0.03
"""Seconds between two deltas of a stream. A shorter interval is not visible to a reader, and a thread that wakes for every token takes
processor time from the engine."""


@dataclass(frozen=True)
class Completion:
    """A finished completion.

    Attributes:
        text: The concatenation of all deltas.
        finish_reason: `stop`: an end-of-sequence token, a stop string or a complete grammar ended it. `length`: `max_tokens` was reached.
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens generated, without the end-of-sequence token.
        seconds: From `submit` to the end, including the time spent waiting for admission.
        time_to_first_token: Seconds from `submit` to the first token.
        cached_tokens: Prompt tokens that were served from the prefix cache.
        repetition_detected: Whether generation was stopped because the model had started to repeat itself.
    """

    text: str = field(repr=False)
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    time_to_first_token: float
    cached_tokens: int = 0
    repetition_detected: bool = False


class CompletionStream(Protocol):
    """A completion while it is generated. A context manager for one consumer, on any thread: exiting it early cancels the generation."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def __iter__(self) -> Iterator[Delta]:
        """Yields deltas as they become available, to the end. A slow consumer gets several tokens in one delta.

        Raises:
            JobError: Generation failed. `Cancelled` and `JobTimeout` are raised by the request's cancel token, within one step.
        """

    @property
    def completion(self) -> Completion:
        """The finished completion. Available once iteration has ended."""


class InferenceEngine(Protocol):
    """Generates completions concurrently. All methods are thread-safe."""

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """The models that requests may name."""

    @property
    def max_concurrency(self) -> int:
        """The number of completions that run at once. Constant for the lifetime of the engine."""

    @property
    def device(self) -> Mapping[str, JsonValue]:
        """What payloads report about the device, as `shared.models.device.describe_device` returns it; empty if unknown."""

    def check(self, request: ChatRequest) -> None:
        """Rejects a request that this engine can never complete, before any work is done.

        Raises:
            ModelUnavailable: The model or the response format is not available on this worker.
            ContextLengthExceeded: Prompt and `max_tokens` exceed the context window; the message gives both lengths.
            ValidationError: The JSON Schema of the response format is not supported.
        """

    def submit(self, request: ChatRequest, cancel: CancelToken) -> CompletionStream:
        """Queues a request that `check` has accepted. Returns immediately; the stream waits for admission if the engine is full.

        Args:
            request: The request.
            cancel: Checked before every step; what it raises ends the stream.

        Raises:
            JobError: The engine accepts no more requests.
        """

    def watch(self, on_failure: Callable[[], None]) -> None:
        """Calls back once the engine can complete nothing any more, also between jobs.

        Args:
            on_failure: Called once, from any thread; at once if the engine has failed before.
        """

    def close(self) -> None:
        """Cancels running completions and releases the models."""
