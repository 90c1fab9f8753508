"""Requests in OpenAI's form, which RunPod creates for calls to `/openai/v1/…`.

Absent values take this contract's defaults, not OpenAI's. Parameters that would change the completion and are not supported are rejected.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from shared.contract.collect_fields import CollectedFields
from shared.contract.context import RequestWarnings
from shared.contract.names import Vocabulary, show_name
from shared.contract.problems import show_value
from shared.errors import Conflict, Problem, ValidationError

CHAT_ROUTE = "/v1/chat/completions"
TEXT_ROUTE = "/v1/completions"
MODELS_ROUTE = "/v1/models"

OPENAI_FIELDS: Mapping[str, str] = {
    **{
        name: name
        for name in (
            "messages", "model", "temperature", "top_p", "stop", "seed", "presence_penalty", "frequency_penalty", "response_format",
            "stream", "logit_bias", "repetition_penalty", "top_k", "min_p", "min_tokens", "stop_token_ids", "guided_json", "guided_choice",
            "guided_regex", "structured_outputs", "continue_final_message", "sfw_mode", "n", "logprobs", "top_logprobs", "tools",
            "tool_choice", "parallel_tool_calls",
        )
    },
    "max_completion_tokens": "max_tokens",
    "max_tokens": "max_tokens",
}  # fmt: skip
"""Supported parameters and the field of a chat request that each maps to. Those that OpenAI does not have are vLLM's or,
as `sfw_mode`, this worker's."""

_CHAT_ONLY = frozenset(
    {"messages", "tools", "tool_choice", "parallel_tool_calls", "top_logprobs", "continue_final_message", "max_completion_tokens"}
)
TEXT_FIELDS: Mapping[str, str] = {
    **{name: field for name, field in OPENAI_FIELDS.items() if name not in _CHAT_ONLY},
    "prompt": "completion_prompt",
}
"""The same for `/v1/completions`. Its `logprobs` is the number of alternatives."""

OPENAI_REFUSED: Mapping[str, tuple[object, ...]] = {
    "functions": ([],),
    "function_call": ("none",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "store": (False,),
    "guided_grammar": (),
    "guided_whitespace_pattern": (),
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1.0,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "prompt_logprobs": (),
    "echo": (False,),
    "suffix": (),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "truncate_prompt_tokens": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "typical_p": (1.0,),
    "moderation": (),
    "watermarking": (False,),
    "thinking_token_budget": (),
    "include_reasoning": (True,),
    "logprob_token_ids": (),
    "logits_processors": ([],),
    "prompt_embeds": (),
    "add_special_tokens": (False,),
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "return_tokens_as_token_ids": (False,),
    "return_token_ids": (False,),
    "return_prompt_text": (False,),
    "repetition_detection": (),
    "cache_salt": (),
    "vllm_xargs": ({},),
}
"""Unsupported parameters, with the values that are accepted because they have no effect."""

OPENAI_IGNORED = frozenset(
    {"user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier", "add_generation_prompt"}
    | {"guided_decoding_backend", "spaces_between_special_tokens", "prompt_cache_options", "prompt_cache_retention", "priority"}
    | {"request_id", "session_id", "stream_interval", "truncation_side"}
)
"""Parameters that are accepted and ignored, because they never affect the completion."""

_STREAM_OPTIONS = "stream_options"
_SKIP_SPECIAL = "skip_special_tokens"
_MAX_UNKNOWN_WARNINGS = 12


def is_openai(raw: object) -> bool:
    """Returns whether a job's input came through `/openai/v1/…`."""
    return isinstance(raw, Mapping) and "openai_route" in raw


@dataclass(frozen=True)
class OpenAIResponseOptions:
    """The parts of a request that determine the form of its response. Parsed leniently, because invalid requests get a response, too.

    Attributes:
        lists_models: Whether it is a call to `/openai/v1/models`, or to one of the models there.
        model: The requested model, unvalidated.
        completes_text: Whether it is a call to `/openai/v1/completions`.
        shown_model: The model whose description is requested, in a call to `/openai/v1/models/{id}`.
        stream: Whether the response is streamed as chunks.
        include_usage: Whether a last chunk reports the usage.
    """

    lists_models: bool
    model: str
    stream: bool
    include_usage: bool
    completes_text: bool = False
    shown_model: str | None = None

    @classmethod
    def of(cls, raw: object) -> OpenAIResponseOptions | None:
        """Parses a job's input; returns None if it is not in OpenAI's form."""
        if not isinstance(raw, Mapping) or not is_openai(raw):
            return None
        body, options = _as_mapping(raw.get("openai_input")), _as_mapping(_as_mapping(raw.get("openai_input")).get(_STREAM_OPTIONS))
        before, is_one, name = str(raw["openai_route"]).partition(f"{MODELS_ROUTE}/")
        shown = unquote(name) if is_one and not before else None
        return cls(
            lists_models=raw["openai_route"] == MODELS_ROUTE or shown is not None,
            completes_text=raw["openai_route"] == TEXT_ROUTE,
            shown_model=shown,
            model=str(body.get("model")),
            stream=body.get("stream") is True,
            include_usage=options.get("include_usage") is True,
        )


def _as_mapping(value: object) -> Mapping[object, object]:
    return value if isinstance(value, Mapping) else {}


def collect_openai_fields(raw: Mapping[object, Any], warnings: RequestWarnings) -> CollectedFields:
    """Collects the values of a chat request from a request in OpenAI's form.

    Args:
        raw: `{"openai_route": …, "openai_input": …}`.
        warnings: Receives a warning for every unknown parameter.

    Raises:
        ValidationError: The route is not supported, or the body is not an object.
    """
    route, body = raw["openai_route"], raw.get("openai_input")
    if route not in (CHAT_ROUTE, TEXT_ROUTE):
        routes = f'"{CHAT_ROUTE}", "{TEXT_ROUTE}" or "{MODELS_ROUTE}"'
        raise ValidationError([Problem("openai_route", show_value(route), routes)])
    if not isinstance(body, Mapping):
        raise ValidationError([Problem("openai_input", show_value(body), "an object")])
    collected, fields = CollectedFields(), OPENAI_FIELDS if route == CHAT_ROUTE else TEXT_FIELDS
    _collect_values(body, fields, collected)
    if route == TEXT_ROUTE:
        _adapt_text_request(body, collected)
    if "model" not in collected.values:
        collected.problems.append(Problem("model", "nothing", f"one of the models that {MODELS_ROUTE} lists"))
    collected.problems.extend([*_unsupported_parameters(body), *_invalid_stream_options(body)])
    _warn_about_unknown(body, fields, warnings)
    return collected


def _collect_values(body: Mapping[object, Any], fields: Mapping[str, str], collected: CollectedFields) -> None:
    for name, field in fields.items():
        value = body.get(name)
        if value is None:
            collected.sources.setdefault(field, name)
        elif field not in collected.values:
            collected.values[field], collected.sources[field] = value, name
        elif not isinstance(value, int) or value != collected.values[field]:
            collected.problems.append(Problem(name, "a different value", f"the same as `{collected.sources[field]}`"))


def _adapt_text_request(body: Mapping[object, Any], collected: CollectedFields) -> None:
    """Adapts the two fields of `/v1/completions` that have another form than those of the chat request."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = collected.values["completion_prompt"] = prompt[0]
    if not isinstance(prompt, str):
        collected.values.pop("completion_prompt", None)
        collected.values["messages"] = [{"role": "user", "content": "-"}]  # in order to report no other field
        collected.sources["messages"] = "prompt"
        collected.problems.append(Problem("prompt", show_value(prompt), "a string, or a list of one string"))
    count = collected.values.pop("logprobs", None)
    if isinstance(count, int) and not isinstance(count, bool):
        collected.values.update(logprobs=True, top_logprobs=count)
        collected.sources["top_logprobs"] = "logprobs"
    elif count is not None:
        collected.problems.append(Problem("logprobs", show_value(count), "a whole number from 0 to 20"))
    collected.problems.extend(
        Problem(name, show_value(body[name]), f"omitted: only {CHAT_ROUTE} has it")
        for name in sorted(_CHAT_ONLY)
        if body.get(name) is not None
    )


def _unsupported_parameters(body: Mapping[object, Any]) -> Iterator[Problem]:
    for name, without_effect in OPENAI_REFUSED.items():
        value = body.get(name)
        if value is None or any(type(value) is type(each) and value == each for each in without_effect):
            continue
        allowed = " or ".join(["omitted", *(json.dumps(each) for each in without_effect)])
        yield Problem(name, show_value(value), f"{allowed} (anything else is not supported)")
    if body.get(_SKIP_SPECIAL) not in (None, True):
        yield Problem(_SKIP_SPECIAL, show_value(body[_SKIP_SPECIAL]), "omitted or true (anything else is not supported)")


def _invalid_stream_options(body: Mapping[object, Any]) -> Iterator[Problem]:
    options = body.get(_STREAM_OPTIONS)
    if options is None:
        return
    if not isinstance(options, Mapping):
        yield Problem(_STREAM_OPTIONS, show_value(options), "an object with `include_usage`")
    elif body.get("stream") is not True:
        yield Conflict.missing(_STREAM_OPTIONS, "stream: true")
    elif not isinstance(usage := options.get("include_usage"), bool | None):
        yield Problem(f"{_STREAM_OPTIONS}.include_usage", show_value(usage), "true or false")
    elif options.get("continuous_usage_stats") not in (None, False):
        yield Problem(f"{_STREAM_OPTIONS}.continuous_usage_stats", show_value(options["continuous_usage_stats"]), "omitted or false")


def _warn_about_unknown(body: Mapping[object, Any], fields: Mapping[str, str], warnings: RequestWarnings) -> None:
    known = {*fields, *_CHAT_ONLY, *OPENAI_REFUSED, *OPENAI_IGNORED, _STREAM_OPTIONS, _SKIP_SPECIAL}
    unknown = [name for name in body if name not in known]
    vocabulary = Vocabulary((name, name) for name in fields)
    for name in unknown[:_MAX_UNKNOWN_WARNINGS]:
        warnings.add_unknown(show_name(name), vocabulary.nearest(name))
    warnings.add_omitted(max(0, len(unknown) - _MAX_UNKNOWN_WARNINGS))
