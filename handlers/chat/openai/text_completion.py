"""Response objects of `/v1/completions`, which continue a text instead of answering a conversation.

OpenAI's API reference, "Completions": https://platform.openai.com/docs/api-reference/completions
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from handlers.chat.choice_delta import ChoiceDelta
from handlers.chat.openai.response import CompletionForm, Warnings, finish_reason
from handlers.chat.payload import AlternativeEntry, ChatCompleted, LogprobEntry, Usage, logprob_to_json
from shared.contract.assets import ClosedModel, omitted_if_none
from shared.contract.callback import CompletedPayload

_FinishReason = Literal["stop", "length"]


class OpenAITextLogprobs(ClosedModel):
    """Log probabilities of the tokens."""

    tokens: Annotated[tuple[str, ...], Field(repr=False)]
    token_logprobs: tuple[float, ...]
    top_logprobs: Annotated[tuple[dict[str, float], ...], Field(repr=False)]
    text_offset: Annotated[tuple[int, ...], Field(description="The position of each token in the text of the choice, in characters.")]


class OpenAITextChoice(ClosedModel):
    """One of the choices of a text completion."""

    index: int
    text: Annotated[str, Field(repr=False)]
    logprobs: OpenAITextLogprobs | None = None
    finish_reason: Annotated[_FinishReason | None, Field(description="`null` in all chunks of a choice but its last.")] = None


class OpenAITextCompletion(ClosedModel):
    """A text completion, or a chunk of a streamed one."""

    id: Annotated[str, Field(description="`cmpl-` and the job id.")]
    object: Literal["text_completion"] = "text_completion"
    created: Annotated[int, Field(description="When the job started, as a Unix timestamp in seconds.")]
    model: Annotated[str, Field(description="The model that generated the completion.")]
    choices: tuple[OpenAITextChoice, ...]
    usage: Annotated[Usage | None, Field(description="In chunks only with `stream_options.include_usage`.")] = omitted_if_none
    warnings: Warnings = omitted_if_none


class TextForm(CompletionForm):
    """Renders text completions."""

    id_prefix = "cmpl"

    def __init__(self, job_id: str, created: int, model: str) -> None:
        super().__init__(job_id, created, model)
        self._offsets: dict[int, int] = {}

    def whole(self, payload: CompletedPayload) -> OpenAITextCompletion:
        """Renders the completion of a completed job."""
        done = ChatCompleted.of(payload)
        choices = tuple(
            OpenAITextChoice(
                index=asset.asset_index,
                text=asset.content,
                logprobs=None if asset.metadata.logprobs is None else self._logprobs(asset.asset_index, asset.metadata.logprobs),
                finish_reason=_finish_reason(finish_reason(asset)),
            )
            for asset in done.assets
        )
        base = self._base | {"model": done.metadata.model_used}
        return OpenAITextCompletion(**base, choices=choices, usage=done.usage, warnings=done.metadata.warnings or None)

    def chunk(self, delta: ChoiceDelta) -> OpenAITextCompletion:
        """Renders what is new of a choice."""
        entries = [LogprobEntry.model_validate(logprob_to_json(each)) for each in delta.logprobs]
        logprobs = self._logprobs(delta.index, entries) if entries else None
        return OpenAITextCompletion(**self._base, choices=(OpenAITextChoice(index=delta.index, text=delta.text, logprobs=logprobs),))

    def last_chunks(self, payload: CompletedPayload) -> Iterator[OpenAITextCompletion]:
        """Renders the chunks with the finish reasons."""
        done = ChatCompleted.of(payload)
        for asset in done.assets:
            choice = OpenAITextChoice(index=asset.asset_index, text="", finish_reason=_finish_reason(finish_reason(asset)))
            warnings = done.metadata.warnings if asset is done.assets[-1] else ()
            yield OpenAITextCompletion(**self._base, choices=(choice,), warnings=warnings or None)

    def usage_chunk(self, payload: CompletedPayload) -> OpenAITextCompletion:
        """Renders the chunk with the token counts."""
        return OpenAITextCompletion(**self._base, choices=(), usage=ChatCompleted.of(payload).usage)

    def _logprobs(self, index: int, entries: Sequence[LogprobEntry]) -> OpenAITextLogprobs:
        offsets, offset = [], self._offsets.get(index, 0)
        for entry in entries:
            offsets.append(offset)
            offset += len(entry.token)
        self._offsets[index] = offset
        return OpenAITextLogprobs(
            tokens=tuple(entry.token for entry in entries),
            token_logprobs=tuple(entry.logprob for entry in entries),
            top_logprobs=tuple(_by_token(entry.top_logprobs) for entry in entries),
            text_offset=tuple(offsets),
        )


def _by_token(alternatives: Sequence[AlternativeEntry]) -> dict[str, float]:
    """Returns log probabilities by the text of the token; of several tokens with the same text, the most likely one's."""
    return {each.token: each.logprob for each in reversed(alternatives)}


def _finish_reason(reason: str) -> _FinishReason:
    return "length" if reason == "length" else "stop"
