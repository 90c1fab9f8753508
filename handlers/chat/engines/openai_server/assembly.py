"""Assembles a completion from the chunks of a server, and ends it where the server does not."""

from __future__ import annotations

from handlers.chat.engine import Completion, Delta, FinishReason
from handlers.chat.engines.openai_server.failures import stream_interrupted
from handlers.chat.engines.openai_server.protocol import Chunk, Usage
from handlers.chat.repetition import RepetitionDetector
from handlers.chat.stop_strings import StopStrings


class CompletionAssembly:
    """The completion so far.

    Args:
        stop: Stop strings that the server does not look for.
        min_tokens: Until so many tokens, no stop string and no repetition ends the completion.
        transcript: Whether a base model continues a transcript.

    Attributes:
        ended: Whether the completion has ended although the server goes on.
    """

    def __init__(self, stop: tuple[str, ...] = (), *, min_tokens: int = 0, transcript: bool = False) -> None:
        self.ended = False
        self._output = StopStrings(stop, strip_leading_space=transcript)
        self._repetition = RepetitionDetector() if transcript else None
        self._min_tokens = min_tokens
        self._emitted = 0  # characters
        self._chunks = 0
        self._tokens = 0
        self._counts_end_token = False
        self._finish_reason: FinishReason | None = None
        self._usage: Usage | None = None

    def add(self, chunk: Chunk) -> Delta | None:
        """Adds a chunk. Returns the text that is final now, if there is any.

        Raises:
            GenerationError: The server aborted the completion.
        """
        self._usage = chunk.usage or self._usage
        self._finish_reason = chunk.finish_reason or self._finish_reason
        if not self._output.stopped:
            self._count(chunk)
            self._output.add(chunk.text, may_stop=self._tokens > self._min_tokens)
        if self._output.stopped or self._repeats(chunk):
            self._finish_reason = "stop"
            self.ended = self._usage is not None  # else it comes with the server's own end
        text = self._output.stable_text if self._finish_reason is None else self._output.text
        added, self._emitted = text[self._emitted :], len(text)
        return Delta(added, self._tokens) if added else None

    def _count(self, chunk: Chunk) -> None:
        self._chunks += bool(chunk.text)
        self._counts_end_token |= chunk.counts_end_token
        if chunk.usage is not None:
            self._tokens = chunk.usage.completion_tokens - self._counts_end_token
        else:  # one token per chunk is the best estimate
            self._tokens = max(self._chunks, self._tokens)

    def finish(self, seconds: float, time_to_first_token: float) -> Completion:
        """Returns the finished completion.

        Args:
            seconds: From the request to the end.
            time_to_first_token: From the request to the first token.

        Raises:
            GenerationError: The stream ended before the completion did.
        """
        if self._finish_reason is None or self._usage is None:
            raise stream_interrupted()
        details = self._usage.prompt_tokens_details
        return Completion(
            text=self._output.text,
            finish_reason=self._finish_reason,
            prompt_tokens=self._usage.prompt_tokens,
            completion_tokens=self._tokens,
            seconds=seconds,
            time_to_first_token=time_to_first_token,
            cached_tokens=(details.cached_tokens if details is not None else None) or 0,
            repetition_detected=self._repetition is not None and self._repetition.detected,
        )

    def _repeats(self, chunk: Chunk) -> bool:
        if self._repetition is None:
            return False
        repeats = any([self._repetition.add(token, self._output.text) for token in chunk.token_ids])
        return repeats and self._tokens >= self._min_tokens
