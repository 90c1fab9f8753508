"""One conversation that is being written: a row of the batch."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from handlers.chat.detokenizer import Answer
from handlers.chat.engine import Finished, Piece
from handlers.chat.engines.transformers.kv_cache import RowCache
from handlers.chat.engines.transformers.repetition import Repetition
from handlers.chat.engines.transformers.sampler import Chooser
from handlers.chat.engines.transformers.stream import RowStream
from shared.errors import Cancelled, GenerationError, JobError
from shared.jobs.execution.cancel import CancelToken


@dataclass(frozen=True)
class Prompt:
    """What a model reads.

    Attributes:
        ids: Token ids.
        shared: How many of them, from the first on, other requests may begin with, too; 0 for none.
    """

    ids: Sequence[int] = field(repr=False)
    shared: int = 0


@dataclass(frozen=True)
class Manner:
    """How an answer is written.

    Attributes:
        chooser: How its tokens are chosen.
        answer: What they mean.
        ends: Tokens that end it.
        max_tokens: Its greatest length.
        repetition: Ends it when it repeats itself, where that is wanted.
    """

    chooser: Chooser
    answer: Answer
    ends: Collection[int]
    max_tokens: int
    repetition: Repetition | None = None


class Row:
    """One answer, from its prompt to its end.

    Args:
        model: Which model writes it, by name.
        prompt: What the model reads.
        manner: How it is written.
        cancel: The job's token.

    Attributes:
        length: How many tokens of prompt and answer the model has read.
        cached: How many of them were read for another request.
        last: The token that was written last.
        beginning: The keys and values of the prompt's beginning, until they have been copied.
    """

    def __init__(self, model: str, prompt: Prompt, manner: Manner, cancel: CancelToken) -> None:
        self.model = model
        self.prompt = prompt.ids
        self.shared = prompt.shared
        self.chooser = manner.chooser
        self.stream = RowStream()
        self.length = 0
        self.cached = 0
        self.beginning: RowCache | None = None
        self.last = -1
        self._max_tokens = manner.max_tokens
        self._answer = manner.answer
        self._ends = manner.ends
        self._repetition = manner.repetition
        self._cancel = cancel
        self._written = 0
        self._shown = 0
        self._started = time.perf_counter()
        self._first: float | None = None

    @property
    def most(self) -> int:
        """How many columns it may come to need."""
        return len(self.prompt) + self._max_tokens

    @property
    def unread(self) -> Sequence[int]:
        """What of the prompt the model has not read yet."""
        return self.prompt[self.length :]

    def begin(self, beginning: RowCache, *, cached: bool) -> None:
        """Goes on from the keys and values of its beginning.

        Args:
            beginning: A cache of one row.
            cached: Whether they were read for another request.
        """
        self.beginning = beginning
        self.length = self.shared
        self.cached = self.shared if cached else 0

    def stopped(self) -> bool:
        """Whether the job was stopped, or nobody reads what is written. If so, it has ended."""
        try:
            if self.stream.left:
                raise Cancelled("Nobody reads the answer any more.")
            self._cancel.check()
        except JobError as error:
            self.stream.end(error)
            return True
        return False

    def take(self, token: int | None) -> bool:
        """Goes on by one token. Returns whether it has ended.

        Args:
            token: Its id; None when the model's output was not finite.
        """
        if token is None:
            self.fail(GenerationError("The model's output is not finite. Send the job again."))
            return True
        self._first = self._first or time.perf_counter() - self._started
        if token in self._ends:
            return self._end("stop")
        self.last = token
        self._written += 1
        self._answer.add(token)
        if (reason := self._reason(token)) is not None:
            return self._end(reason)
        shown = self._answer.shown
        self.stream.put(Piece(shown[self._shown :], self._written))
        self._shown = len(shown)
        return False

    def fail(self, error: JobError) -> None:
        """Ends it without an answer."""
        self.stream.end(error)

    def _reason(self, token: int) -> Literal["stop", "length"] | None:
        grammar = self.chooser.grammar
        repeats = self._repetition is not None and self._repetition.add(token, self._answer.final)
        if self._answer.stopped or repeats or (grammar is not None and grammar.complete):
            return "stop"
        return "length" if self._written == self._max_tokens else None

    def _end(self, reason: Literal["stop", "length"]) -> bool:
        text = self._answer.final
        self.stream.put(Piece(text[self._shown :], self._written))
        finished = Finished(
            text=text,
            finish_reason=reason,
            prompt_tokens=len(self.prompt),
            completion_tokens=self._written,
            seconds=time.perf_counter() - self._started,
            time_to_first_token=self._first or 0.0,
            cached_tokens=self.cached,
            repeats=self._repetition is not None and self._repetition.found,
        )
        self.stream.end(finished)
        return True
