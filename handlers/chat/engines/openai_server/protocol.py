"""OpenAI's completion protocols, as spoken with an inference server: the chunks of a stream."""

from __future__ import annotations

import json

from pydantic import BaseModel, Field

from handlers.chat.engine import FinishReason
from handlers.chat.engines.openai_server.failures import RequestContext, error_object, stream_interrupted, to_job_error
from shared.errors import GenerationError


class _PromptTokensDetails(BaseModel):
    cached_tokens: int | None = None


class Usage(BaseModel):
    """Token counts of a completion."""

    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _PromptTokensDetails | None = None


class _ChunkDelta(BaseModel):
    content: str | None = Field(None, repr=False)


class _Choice(BaseModel):
    """A choice of a chat completion, whose text is in `delta`, or of a completion, whose text is in `text`."""

    delta: _ChunkDelta = _ChunkDelta()
    text: str | None = Field(None, repr=False)
    finish_reason: str | None = None
    stop_reason: int | str | None = Field(None, repr=False)
    token_ids: list[int] | None = Field(None, repr=False)


class Chunk(BaseModel):
    """One chunk of a streamed completion."""

    choices: list[_Choice] = []
    usage: Usage | None = None

    @property
    def text(self) -> str:
        """The text that the chunk adds."""
        return "".join(choice.delta.content or choice.text or "" for choice in self.choices)

    @property
    def token_ids(self) -> list[int]:
        """The tokens that the chunk adds, if the server reports them."""
        return [token for choice in self.choices for token in choice.token_ids or ()]

    @property
    def counts_end_token(self) -> bool:
        """Whether the server counts a token that ends the completion and has no text.

        vLLM does, and reports what stopped it: a stop string, the id of a stop token, or null for the model's own end token.
        """
        ends = [choice for choice in self.choices if choice.finish_reason == "stop" and "stop_reason" in choice.model_fields_set]
        return any(not isinstance(choice.stop_reason, str) for choice in ends)

    @property
    def finish_reason(self) -> FinishReason | None:
        """The finish reason, in the last chunk of a choice.

        Raises:
            GenerationError: The server aborted the completion.
        """
        reasons = [choice.finish_reason for choice in self.choices if choice.finish_reason is not None]
        match reasons:
            case []:
                return None
            case ["stop" | "length" as reason]:
                return reason
        raise GenerationError("The inference server aborted the completion. Send the job again.")


def parse_chunk(data: str, context: RequestContext) -> Chunk:
    """Parses one server-sent event.

    Args:
        data: The event's data.
        context: As for `to_job_error`.

    Raises:
        GenerationError: The event is not a chunk.
        JobError: The event is an error, as `to_job_error` maps it.
    """
    try:
        content = json.loads(data)
        if isinstance(content, dict) and ("error" in content or content.get("object") == "error"):
            code = error_object(content).get("code")
            raise to_job_error(code if isinstance(code, int) else 500, data, context)
        return Chunk.model_validate(content)
    except ValueError:  # the base class of JSON and pydantic errors
        raise stream_interrupted() from None
