"""Presents chat jobs in OpenAI's form: completions, server-sent events, errors, and the list of models."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from pydantic import JsonValue

from handlers.chat.choice_delta import ChoiceDelta, join_by_choice
from handlers.chat.openai.request import OpenAIResponseOptions
from handlers.chat.openai.response import DONE, ChatForm, OpenAIModel, OpenAIModels, error, event, to_json
from handlers.chat.openai.text_completion import TextForm
from handlers.chat.payload import call_to_json
from shared.contract.assets import ClosedModel
from shared.contract.callback import CompletedPayload
from shared.contract.names import show_name
from shared.errors import ModelUnavailable
from shared.jobs.lifecycle import Completed, Failed
from shared.jobs.presentation import HandlerResponse, PayloadPresentation, Presentation


class NamesModels(Protocol):
    """A recipe that serves models by name."""

    @property
    def model_names(self) -> Sequence[str]:
        """The models that requests may name."""


def present(job_id: str, raw: object) -> Presentation:
    """Chooses a job's presentation: OpenAI's for calls to `/openai/v1/…`, else payloads.

    Args:
        job_id: RunPod's id of the job.
        raw: The job's input, which may be invalid.
    """
    options = OpenAIResponseOptions.of(raw)
    if options is None:
        return ChatPayloadPresentation(streams=_reads_stream(raw))
    return OpenAIPresentation(job_id, options)


def answer_without_job(raw: object, recipe: NamesModels, started: int) -> HandlerResponse | None:
    """Answers `/openai/v1/models` and `/openai/v1/models/{id}`, which need no inference; returns None for any other input.

    Args:
        raw: The job's input, which may be invalid.
        recipe: The loaded recipe.
        started: When the worker started, as a Unix timestamp in seconds.
    """
    options = OpenAIResponseOptions.of(raw)
    if options is None or not options.lists_models:
        return None
    if options.shown_model is None:
        return list_models(recipe.model_names, started)
    return show_model(options.shown_model, recipe.model_names, started)


class ResponseForm(Protocol):
    """Renders the response objects of one route."""

    def whole(self, payload: CompletedPayload) -> ClosedModel:
        """Renders the completion of a completed job."""

    def chunk(self, delta: ChoiceDelta) -> ClosedModel:
        """Renders what is new of a choice."""

    def last_chunks(self, payload: CompletedPayload) -> Iterator[ClosedModel]:
        """Renders the chunks with the finish reasons."""

    def usage_chunk(self, payload: CompletedPayload) -> ClosedModel:
        """Renders the chunk with the token counts."""


class OpenAIPresentation:
    """Renders one job as a completion or, if it is streamed, as server-sent events, which RunPod's proxy passes through.

    Args:
        job_id: RunPod's id of the job.
        options: The requested form.
    """

    def __init__(self, job_id: str, options: OpenAIResponseOptions) -> None:
        form = TextForm if options.completes_text else ChatForm
        self._form: ResponseForm = form(job_id, int(time.time()), options.model)
        self._includes_usage = options.include_usage
        self.streams = options.stream

    def delta(self, pieces: Sequence[ChoiceDelta]) -> HandlerResponse:
        """Renders new text as one chunk for each choice."""
        return "".join(event(self._form.chunk(delta)) for delta in join_by_choice(pieces))

    def result(self, outcome: Completed | Failed) -> HandlerResponse:
        """Renders a completion, or the error object: as a string of JSON, because RunPod requires `error` to be a string."""
        if isinstance(outcome, Failed):
            return {"error": to_json(error(outcome.error))}
        rendered: dict[str, JsonValue] = self._form.whole(outcome.payload).model_dump(mode="json")
        return rendered

    def final(self, outcome: Completed | Failed) -> Iterator[HandlerResponse]:
        """Yields the completion, or the events that end a stream. An error is sent to the client before RunPod learns of it."""
        if not self.streams:
            yield self.result(outcome)
        elif isinstance(outcome, Failed):
            yield event(error(outcome.error))
            yield self.result(outcome)
        else:
            yield "".join(self._final_events(outcome.payload))

    def _final_events(self, payload: CompletedPayload) -> Iterator[str]:
        yield from map(event, self._form.last_chunks(payload))
        if self._includes_usage:
            yield event(self._form.usage_chunk(payload))
        yield DONE


class ChatPayloadPresentation(PayloadPresentation):
    """The contract's own form: `{"delta": …}` for new text, then the callback payload."""

    def delta(self, pieces: Sequence[ChoiceDelta]) -> HandlerResponse:
        """Renders what is new of the first choice and, in `choices`, of the others."""
        rendered = {delta.index: _own_delta(delta) for delta in join_by_choice(pieces)}
        first = rendered.pop(0, {"delta": ""})
        others: list[JsonValue] = [{"index": index} | delta for index, delta in rendered.items()]
        return first | {"choices": others} if others else first


def _own_delta(delta: ChoiceDelta) -> dict[str, JsonValue]:
    calls: list[JsonValue] = [call_to_json(call) for call in delta.tool_calls]
    return {"delta": delta.text} | ({"tool_calls": calls} if calls else {})


def _reads_stream(raw: object) -> bool:
    """Returns whether a request in the contract's own form, which may be invalid, asks for a stream."""
    sections = (raw.get("config"), raw, raw.get("metadata")) if isinstance(raw, Mapping) else ()
    given = [section.get("stream") for section in sections if isinstance(section, Mapping)]
    return next((value for value in given if value is not None), None) is True


def show_model(name: str, names: Sequence[str], started: int) -> HandlerResponse:
    """Renders one model of a worker, or the error object if it has none of this name.

    Args:
        name: The requested name.
        names: The names that requests may use.
        started: When the worker started, as a Unix timestamp in seconds.
    """
    if name not in names:
        return {"error": to_json(error(ModelUnavailable(f"Model {show_name(name)} is not installed. Available: {', '.join(names)}.")))}
    rendered: dict[str, JsonValue] = OpenAIModel(id=name, created=started).model_dump(mode="json")
    return rendered


def list_models(names: Sequence[str], started: int) -> HandlerResponse:
    """Renders the models of a worker.

    Args:
        names: The names that requests may use.
        started: When the worker started, as a Unix timestamp in seconds.
    """
    models = OpenAIModels(data=tuple(OpenAIModel(id=name, created=started) for name in names))
    rendered: dict[str, JsonValue] = models.model_dump(mode="json")
    return rendered
