"""How a job's end, and the text on the way there, look to whoever asked for it: as payloads, or as OpenAI's objects."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic import JsonValue

from handlers.chat.openai.request import Look
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
    to_text,
    usage_of,
)
from shared.jobs.lifecycle import Completed, Failed
from shared.jobs.presentation import Output, PayloadPresentation, Presentation

if TYPE_CHECKING:
    from handlers.chat.recipe import ChatRecipe


def present(job_id: str, raw: object) -> Presentation:
    """Chooses the form that a job's input asks for.

    Args:
        job_id: The job whose outputs are rendered.
        raw: The job's input, which may be invalid.
    """
    look = Look.of(raw)
    return PayloadPresentation() if look is None else OpenAIObjects(job_id, look)


def answer_without_job(raw: object, recipe: ChatRecipe, since: int) -> Output | None:
    """Answers `GET /openai/v1/models`, which needs no job; returns None for any other input.

    Args:
        raw: The job's input, which may be invalid.
        recipe: The loaded models.
        since: When the worker started, in seconds since 1970.
    """
    look = Look.of(raw)
    return list_models(recipe.model_names, since) if look is not None and look.lists_models else None


class OpenAIObjects:
    """OpenAI's form: a completion, or server-sent events with chunks, as RunPod's proxy hands them on.

    Args:
        job_id: Whose answer it is.
        look: What the request says about its answer. Nothing of it is repeated before the request was found to be valid.
    """

    def __init__(self, job_id: str, look: Look) -> None:
        self._id = completion_id(job_id)
        self._look = look
        self._created = int(time.time())
        self._begun = False

    def piece(self, text: str) -> Output:
        """A chunk with a piece of text; the first one has the role, too."""
        return event(self._chunk(OpenAIDelta(role=None if self._begun else "assistant", content=text)))

    def result(self, end: Completed | Failed) -> Output:
        """The completion; of a failed job OpenAI's error, as a string of JSON."""
        if isinstance(end, Failed):
            return {"error": to_text(error(end.error))}
        answer: dict[str, JsonValue] = completion(end.payload, self._created).model_dump(mode="json")
        return answer

    def last(self, end: Completed | Failed) -> Iterator[Output]:
        """The completion, or the events that end a stream: those of a failed job tell it to the reader before RunPod is told."""
        if not self._look.streams:
            yield self.result(end)
        elif isinstance(end, Failed):
            yield event(error(end.error))
            yield self.result(end)
        else:
            yield "".join(self._ending(end))

    def _ending(self, end: Completed) -> Iterator[str]:
        if not self._begun:
            yield event(self._chunk(OpenAIDelta(role="assistant", content="")))
        chunk = last_chunk(end.payload, self._created)
        yield event(chunk)
        if self._look.counts:
            yield event(chunk.model_copy(update={"choices": (), "usage": usage_of(end.payload), "warnings": None}))
        yield DONE

    def _chunk(self, delta: OpenAIDelta) -> OpenAIChunk:
        self._begun = True
        choices = (OpenAIChunkChoice(delta=delta),)
        return OpenAIChunk(id=self._id, created=self._created, model=self._look.model, choices=choices)


def list_models(names: Sequence[str], since: int) -> Output:
    """The models of a worker in OpenAI's form.

    Args:
        names: What requests may name.
        since: When the worker started, in seconds since 1970.
    """
    models = OpenAIModels(data=tuple(OpenAIModel(id=name, created=since) for name in names))
    listed: dict[str, JsonValue] = models.model_dump(mode="json")
    return listed
