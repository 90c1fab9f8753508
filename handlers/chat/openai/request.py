"""A request in OpenAI's form: what RunPod makes of a call to `/openai/v1/…` becomes the values of a chat request.

Absent values take this contract's defaults, not OpenAI's. A value that would change the answer and cannot be honoured is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shared.contract.collect_fields import CollectedFields
from shared.contract.context import RequestWarnings
from shared.contract.names import Vocabulary, show_name
from shared.contract.problems import show_value
from shared.errors import Problem, ValidationError

CHAT_ROUTE = "/v1/chat/completions"
MODELS_ROUTE = "/v1/models"

OPENAI_FIELDS: Mapping[str, str] = {
    **{
        name: name
        for name in (
            "messages", "model", "temperature", "top_p", "stop", "seed", "presence_penalty", "frequency_penalty", "response_format",
            "stream", "repetition_penalty", "sfw_mode",
        )
    },
    "max_completion_tokens": "max_tokens",
    "max_tokens": "max_tokens",
}  # fmt: skip
"""The fields of OpenAI's form that are read, and the field of a chat request that each means. The last two of the first are ours."""

OPENAI_REFUSED: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "function_call": ("none",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "store": (False,),
}
"""What OpenAI has and these models have not, with the values that ask for nothing."""

OPENAI_IGNORED = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier", "parallel_tool_calls"})
"""What is known to change no answer."""

_OPTIONS = "stream_options"
_MOST_UNKNOWN = 12


def is_openai(raw: object) -> bool:
    """Whether a job's input came through `/openai/v1/…`."""
    return isinstance(raw, Mapping) and "openai_route" in raw


@dataclass(frozen=True)
class OpenAIResponseOptions:
    """What of a request decides how its answer looks. The request may be wrong in every respect.

    Attributes:
        lists_models: Whether it is a call to `/openai/v1/models`.
        model: The model that is asked for.
        streams: Whether the answer is to come in chunks.
        counts: Whether chunks are to be followed by one with the usage.
    """

    lists_models: bool
    model: str
    streams: bool
    counts: bool

    @classmethod
    def of(cls, raw: object) -> OpenAIResponseOptions | None:
        """Reads it from a job's input; nothing when that is not of OpenAI's form."""
        if not isinstance(raw, Mapping) or not is_openai(raw):
            return None
        body, options = _object(raw.get("openai_input")), _object(_object(raw.get("openai_input")).get(_OPTIONS))
        return cls(
            lists_models=raw["openai_route"] == MODELS_ROUTE,
            model=str(body.get("model")),
            streams=body.get("stream") is True,
            counts=options.get("include_usage") is True,
        )


def _object(value: object) -> Mapping[object, object]:
    return value if isinstance(value, Mapping) else {}


def collect_openai_fields(raw: Mapping[object, Any], warnings: RequestWarnings, *, streams: bool) -> CollectedFields:
    """Finds the value of every field in a request of OpenAI's form.

    Args:
        raw: `{"openai_route": …, "openai_input": …}`.
        warnings: Gets a warning for every name that means nothing.
        streams: Whether this worker streams answers.

    Raises:
        ValidationError: It is a call to something else, or no object.
    """
    route, body = raw["openai_route"], raw.get("openai_input")
    if route != CHAT_ROUTE:
        raise ValidationError([Problem("openai_route", show_value(route), f'"{CHAT_ROUTE}" or "{MODELS_ROUTE}"')])
    if not isinstance(body, Mapping):
        raise ValidationError([Problem("openai_input", show_value(body), "an object")])
    collected = CollectedFields()
    _take(body, collected)
    if "model" not in collected.values:
        collected.problems.append(Problem("model", "nothing", f"given; {MODELS_ROUTE} lists the models of this worker"))
    collected.problems.extend([*_unsupported(body), *_wrong_options(body, streams)])
    _name_unknown(body, warnings)
    return collected


def _take(body: Mapping[object, Any], collected: CollectedFields) -> None:
    for name, meant in OPENAI_FIELDS.items():
        value = body.get(name)
        if value is None:
            collected.sources.setdefault(meant, name)
        elif meant not in collected.values:
            collected.values[meant], collected.sources[meant] = value, name
        elif not isinstance(value, int) or value != collected.values[meant]:
            collected.problems.append(Problem(name, "another value", f"the same as {collected.sources[meant]}"))


def _unsupported(body: Mapping[object, Any]) -> Iterator[Problem]:
    for name, harmless in OPENAI_REFUSED.items():
        value = body.get(name)
        if value is None or any(type(value) is type(each) and value == each for each in harmless):
            continue
        allowed = " or ".join(["left out", *(json.dumps(each) for each in harmless)])
        yield Problem(name, show_value(value), f"{allowed}: this worker cannot do more")


def _wrong_options(body: Mapping[object, Any], streams: bool) -> Iterator[Problem]:
    options = body.get(_OPTIONS)
    if body.get("stream") is True and not streams:
        yield Problem("stream", "true", "false on this worker; its operator can allow it with CHAT_STREAMING=1")
    if options is None:
        return
    if not isinstance(options, Mapping):
        yield Problem(_OPTIONS, show_value(options), "an object with include_usage")
    elif body.get("stream") is not True:
        yield Problem(_OPTIONS, show_value(options), "left out where stream is not true")
    elif not isinstance(usage := options.get("include_usage"), bool | None):
        yield Problem(f"{_OPTIONS}.include_usage", show_value(usage), "true or false")


def _name_unknown(body: Mapping[object, Any], warnings: RequestWarnings) -> None:
    known = {*OPENAI_FIELDS, *OPENAI_REFUSED, *OPENAI_IGNORED, _OPTIONS}
    unknown = [name for name in body if name not in known]
    vocabulary = Vocabulary((name, name) for name in OPENAI_FIELDS)
    for name in unknown[:_MOST_UNKNOWN]:
        meant = vocabulary.nearest(name)
        hint = f"; did you mean {meant}?" if meant is not None else ""
        warnings.add(f"{show_name(name)}: not a known field, ignored{hint}")
    warnings.add_omitted(max(0, len(unknown) - _MOST_UNKNOWN))
