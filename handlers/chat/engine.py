"""What writes text, as the recipe sees it: an engine of our own in this process, or a server beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Protocol, Self

from handlers.chat.request import ChatRequest
from shared.jobs.execution.cancel import CancelToken


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model that an engine offers.

    Attributes:
        context_length: How many tokens fit, prompt and answer together.
        revision: The commit of its weights, where it is known.
    """

    context_length: int
    revision: str | None = None


@dataclass(frozen=True)
class Piece:
    """What was written since the piece before.

    Attributes:
        text: New text. It is never taken back: no half of a character, no beginning of a stop. May be empty.
        tokens: How many tokens the answer has by now.
    """

    text: str = field(repr=False)
    tokens: int


@dataclass(frozen=True)
class Finished:
    """A whole answer.

    Attributes:
        text: All pieces, joined.
        finish_reason: `stop`: the model, a stop or a complete form has ended it. `length`: `max_tokens` was reached.
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written; one that ends the answer is not counted.
        seconds: From `start` to the end, waiting for a place included.
        time_to_first_token: Seconds from `start` until the first token was known.
        cached_tokens: How many of the prompt's tokens had been read for an earlier request.
        repeats: Whether the answer was ended because the model had begun to repeat itself.
    """

    text: str = field(repr=False)
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    time_to_first_token: float
    cached_tokens: int = 0
    repeats: bool = False


class Stream(Protocol):
    """One answer while it is written. Read by one thread, any thread, inside `with`: leaving it before the end stops the writing."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def __iter__(self) -> Iterator[Piece]:
        """Yields what is there as soon as there is something, to the end; a reader who is late gets several tokens in one piece.

        Raises:
            JobError: There is no answer. `Cancelled` and `JobTimeout` come from the request's token, within one step.
        """

    @property
    def finished(self) -> Finished:
        """The whole answer. Known after the last piece."""


class TextEngine(Protocol):
    """Writes answers, many at once. Every method may be called from any thread."""

    @property
    def models(self) -> Mapping[str, ModelFacts]:
        """The models that requests may name, by name."""

    @property
    def concurrency(self) -> int:
        """How many answers it writes at once. Does not change while it lives."""

    @property
    def vram_used_mb(self) -> int:
        """MiB of the GPU's memory in use, 0 where that is not known."""

    def check(self, request: ChatRequest) -> None:
        """Refuses, before any work, what can never be written.

        Raises:
            ModelUnavailable: The model, or the form of the answer, is not on this worker.
            ContextLengthExceeded: Prompt and answer do not fit; names both lengths.
            ValidationError: The schema of the answer cannot be followed.
        """

    def start(self, request: ChatRequest, cancel: CancelToken) -> Stream:
        """Takes a request that `check` has let pass. Returns at once; where there is no place, the stream waits for one.

        Args:
            request: What to write.
            cancel: Looked at before each step; what it raises ends the stream.

        Raises:
            JobError: The engine takes no more requests.
        """

    def close(self) -> None:
        """Ends what is being written and lets go of the models."""
