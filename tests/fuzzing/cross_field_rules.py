"""Validation rules that JSON Schema cannot express, with the fields that a violation may be reported for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Values = dict[str, Any]

HOOKS = "hooks.example"
"""The allowed callback host."""


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        description: The rule in one sentence.
        reported: The canonical paths of the fields that an error message about it may name.
        repair: Minimally changes values that violate it.
    """

    description: str
    reported: tuple[str, ...]
    repair: Callable[[Values], None]


def _use_allowed_host(values: Values) -> None:
    if "callback_url" in values:
        values["callback_url"] = f"https://{HOOKS}/done"


_CALLBACK = Rule("Callback URLs must use an allowed host.", ("callback_url",), _use_allowed_host)


def _is_copy(values: Values) -> bool:
    return bool(values.get("metadata.exact_copy_mode")) and "metadata.reference_image_url" in values and values["prompt"] == ""


def _ensure_prompt(values: Values) -> None:
    if values["prompt"] == "" and not _is_copy(values):
        values["prompt"] = "a heron"


def _balance_brackets(values: Values) -> None:
    for path in ("prompt", "negative_prompt", "compel_weights"):
        if values.get("compel_enabled") and path in values:
            values[path] = re.sub(r"[()\[\]]", "", values[path]) or "(a heron:1.2) over [the] bay"


def _ensure_min_steps(values: Values) -> None:
    if values.get("config.scheduler") not in ("lcm", "tcd", "ddim_trailing", "euler_trailing") and "config.steps" in values:
        values["config.steps"] = max(values["config.steps"], 10)


def _sides(word: str) -> tuple[int, int]:
    width, height = re.split("[x*]", word)
    return int(width), int(height)


def _align_resolution(values: Values) -> None:
    if word := values.get("config.resolution"):
        values["config.resolution"] = "x".join(str(64 + side % 249 * 8) for side in _sides(word))


def _pair_width_and_height(values: Values) -> None:
    if ("config.width" in values) != ("config.height" in values):
        values.setdefault("config.width", 64)
        values.setdefault("config.height", 64)


def _drop_mask_without_reference(values: Values) -> None:
    if _is_copy(values) or "metadata.reference_image_url" not in values:
        values.pop("config.mask", None)


def _drop_references_of_copies(values: Values) -> None:
    if _is_copy(values):
        values.pop("config.references", None)


SDXL_RULES = (
    _CALLBACK,
    Rule("The prompt may be empty only when a reference is copied.", ("prompt",), _ensure_prompt),
    Rule("Brackets of prompt weights must be balanced.", ("prompt", "negative_prompt", "compel_weights"), _balance_brackets),
    Rule("Fewer than ten steps require a scheduler for distilled models.", ("config.steps",), _ensure_min_steps),
    Rule("The sides of a resolution must be multiples of 8 from 64 to 2048.", ("config.resolution",), _align_resolution),
    Rule("Width and height must be given together.", ("config.width", "config.height"), _pair_width_and_height),
    Rule("A mask requires a reference that is not copied.", ("config.mask",), _drop_mask_without_reference),
    Rule("A copy cannot be combined with further references.", ("config.references",), _drop_references_of_copies),
)


def _align_clip_size(values: Values) -> None:
    if word := values.get("config.size"):
        values["config.size"] = "*".join(str(16 + side % 39 * 16) for side in _sides(word))


def _limit_pixels(values: Values) -> None:
    for path, most in (("config.width", 480), ("config.height", 832)):
        if path in values:
            values[path] = 16 + values[path] % most
    if ("config.width" in values) != ("config.height" in values):
        # The missing side is taken from the size and may be too long.
        values.pop("config.size", None)
        values.pop("config.resolution", None)


def _match_reference_mode(values: Values) -> None:
    first, last = "config.first_frame" in values, "config.last_frame" in values
    if first or last:
        values.pop("config.image", None)
    mode = {(True, True): "both", (True, False): "start", (False, True): "end"}.get((first, last))
    if "config.reference_mode" in values:
        values["config.reference_mode"] = mode or ("single" if "config.image" in values else "none")


WAN_RULES = (
    _CALLBACK,
    Rule("The sides of a size must be multiples of 16, with at most 399 360 pixels.", ("config.size",), _align_clip_size),
    Rule("Width times height must be at most 399 360.", ("config.width", "config.height"), _limit_pixels),
    Rule(
        "The reference mode must match the references; an image cannot be combined with first and last frames.",
        ("config.reference_mode",),
        _match_reference_mode,
    ),
)


def _ensure_user_message(values: Values) -> None:
    turns = values.get("messages", [])
    is_required = "prompt" not in values and "completion_prompt" not in values
    if (turns or is_required) and all(turn["role"] in ("system", "developer") for turn in turns):
        values["messages"] = [*turns, {"role": "user", "content": "a heron"}]


def _drop_conflicting_enhancement_type(values: Values) -> None:
    if values.get("type") in ("enhance_base", "enhance_instruct"):
        values.pop("enhancement_type", None)


def _use_known_model(values: Values) -> None:
    if values.get("model") not in (None, "qwen_instruct", "qwen_base"):
        values["model"] = ("qwen_instruct", "qwen_base")[len(values["model"]) % 2]


def _drop_missing_schema(values: Values) -> None:
    form = values.get("response_format", {})
    if form.get("type") == "json_schema" and form.get("json_schema") is None:
        values["response_format"] = {"type": "json_object"}


def _lower_min_tokens(values: Values) -> None:
    if values.get("min_tokens") is not None:
        values["min_tokens"] = min(values["min_tokens"], values.get("max_tokens") or 200)


def _keep_one_constraint(values: Values) -> None:
    outputs = values.get("structured_outputs")
    if outputs is not None:
        values["structured_outputs"] = dict(list(outputs.items())[:1])
    given = [path for path in ("structured_outputs", "guided_regex", "guided_choice", "guided_json") if values.get(path) is not None]
    kept = given[len(str(values)) % len(given)] if given else None  # so that each of them occurs
    for path in given:
        if path != kept:
            del values[path]
    if given and values.get("response_format", {}).get("type", "text") != "text":
        del values["response_format"]


def _continue_only_the_assistant(values: Values) -> None:
    if values.get("continue_final_message") and values.get("messages"):
        values["messages"] = [*values["messages"], {"role": "assistant", "content": "So"}]
    elif values.get("continue_final_message"):
        values["continue_final_message"] = False


def _use_one_prompt(values: Values) -> None:
    if values.get("completion_prompt") is None:
        return
    if len(str(values)) % 2:
        values.pop("messages", None)
        values.pop("prompt", None)
    else:
        del values["completion_prompt"]


def _keep_tool_roles(values: Values) -> None:
    for turn in values.get("messages") or []:
        if turn["role"] != "assistant":
            turn.pop("tool_calls", None)
        if turn["role"] == "tool":
            turn["tool_call_id"] = turn.get("tool_call_id") or "call_1"
        else:
            turn.pop("tool_call_id", None)
        for call in turn.get("tool_calls") or []:
            call["function"]["arguments"] = "{}"


def _limit_logprobs(values: Values) -> None:
    if values.get("sfw_mode"):
        values.pop("logprobs", None)
        values.pop("top_logprobs", None)
    elif "top_logprobs" in values:
        most = 1900 // (values.get("n") or 1)
        values |= {"logprobs": True, "max_tokens": min(values.get("max_tokens") or 512, most)}


def _distinguish_tools(values: Values) -> None:
    tools = {tool["function"]["name"]: tool for tool in values.get("tools") or []}
    if "tools" in values and values["tools"] is not None:
        values["tools"] = [*tools.values()]


_WITHOUT_TOOLS = ("guided_choice", "guided_regex", "structured_outputs", "completion_prompt", "continue_final_message")


def _drop_tools_of_constraints(values: Values) -> None:
    if any(values.get(name) for name in _WITHOUT_TOOLS):
        values.pop("tools", None)


def _choose_listed_tool(values: Values) -> None:
    choice, names = values.get("tool_choice"), [tool["function"]["name"] for tool in values.get("tools") or []]
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if not names and kind in ("required", "function"):
        values["tool_choice"] = "none"
    elif kind == "function":
        values["tool_choice"] = {"type": "function", "function": {"name": names[0]}}


CHAT_RULES = (
    _CALLBACK,
    Rule("A text to continue cannot be combined with a conversation.", ("messages",), _use_one_prompt),
    Rule("Calls are the assistant's, results have role tool, and arguments are JSON objects.", ("messages",), _keep_tool_roles),
    Rule("A prompt or a message with a role other than system is required.", ("messages",), _ensure_user_message),
    Rule("The enhancement type must match the job type.", ("enhancement_type",), _drop_conflicting_enhancement_type),
    Rule("The model must be one of the two models or their configured names.", ("model",), _use_known_model),
    Rule("Log probabilities are limited in number, and exclude masked words.", ("logprobs", "top_logprobs"), _limit_logprobs),
    Rule("The minimum length must not exceed the maximum.", ("min_tokens",), _lower_min_tokens),
    Rule("Only one constraint may be given.", ("structured_outputs",), _keep_one_constraint),
    Rule("Only a last message of the assistant can be continued.", ("continue_final_message",), _continue_only_the_assistant),
    Rule("The response format json_schema requires a schema.", ("response_format.json_schema",), _drop_missing_schema),
    Rule("Tools have different names.", ("tools",), _distinguish_tools),
    Rule("Tools cannot be combined with constraints of the text.", ("tool_choice",), _drop_tools_of_constraints),
    Rule("A choice of tools names one of them.", ("tool_choice", "tool_choice.function"), _choose_listed_tool),
)


def reported_fields(rules: tuple[Rule, ...]) -> Iterator[str]:
    """Yields the fields that a violation of any rule may be reported for."""
    for rule in rules:
        yield from rule.reported
