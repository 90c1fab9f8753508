"""Presents chat jobs in OpenAI's form: completions, server-sent events, errors, and the list of models."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

from pydantic import JsonValue

from handlers.chat.openai.request import OpenAIResponseOptions
from handlers.chat.openai.response import (
    DONE,
    OpenAIChunk,
    OpenAIChunkChoice,
    OpenAIDelta,
    OpenAIModel,
    OpenAIModels,
    completion,
    completion_id,
    error,
    event,
    last_chunk,
    to_json,
    usage_of,
)
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
    return PayloadPresentation() if options is None else OpenAIPresentation(job_id, options)


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


class OpenAIPresentation:
    """Renders one job as a completion or, if it is streamed, as server-sent events, which RunPod's proxy passes through.

    Args:
        job_id: RunPod's id of the job.
        options: The requested form. `model` only appears in chunks, and thus not before the request has been validated.
    """

    def __init__(self, job_id: str, options: OpenAIResponseOptions) -> None:
        self._id = completion_id(job_id)
        self._options = options
        self._created = int(time.time())
        self._sent_role = False

    def delta(self, text: str) -> HandlerResponse:
        """Renders new text as a chunk; the first chunk also carries the role."""
        return event(self._chunk(text))

    def result(self, outcome: Completed | Failed) -> HandlerResponse:
        """Renders a completion, or the error object: as a string of JSON, because RunPod requires `error` to be a string."""
        if isinstance(outcome, Failed):
            return {"error": to_json(error(outcome.error))}
        rendered: dict[str, JsonValue] = completion(outcome.payload, self._created).model_dump(mode="json")
        return rendered

    def final(self, outcome: Completed | Failed) -> Iterator[HandlerResponse]:
        """Yields the completion, or the events that end a stream. An error is sent to the client before RunPod learns of it."""
        if not self._options.stream:
            yield self.result(outcome)
        elif isinstance(outcome, Failed):
            yield event(error(outcome.error))
            yield self.result(outcome)
        else:
            yield "".join(self._final_events(outcome))

    def _final_events(self, outcome: Completed) -> Iterator[str]:
        if not self._sent_role:
            yield event(self._chunk(""))
        chunk = last_chunk(outcome.payload, self._created)
        yield event(chunk)
        if self._options.include_usage:
            yield event(chunk.model_copy(update={"choices": (), "usage": usage_of(outcome.payload), "warnings": None}))
        yield DONE

    def _chunk(self, text: str) -> OpenAIChunk:
        role: Literal["assistant"] | None = None if self._sent_role else "assistant"
        self._sent_role = True
        choice = OpenAIChunkChoice(delta=OpenAIDelta(role=role, content=text))
        return OpenAIChunk(id=self._id, created=self._created, model=self._options.model, choices=(choice,))


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
