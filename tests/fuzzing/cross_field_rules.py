"""What a JSON Schema cannot say: the rules between fields, each with the fields that are blamed where it is broken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Values = dict[str, Any]

HOOKS = "hooks.example"
"""The host that callbacks may name."""


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        sentence: What it says.
        blamed: The fields that a message about it may name, by their canonical paths.
        settle: Changes values that break it, as little as it takes.
    """

    sentence: str
    blamed: tuple[str, ...]
    settle: Callable[[Values], None]


def _call_a_known_host(values: Values) -> None:
    if "callback_url" in values:
        values["callback_url"] = f"https://{HOOKS}/done"


_CALLBACK = Rule("A callback goes to hosts that the operator allows.", ("callback_url",), _call_a_known_host)


def _is_copy(values: Values) -> bool:
    return bool(values.get("metadata.exact_copy_mode")) and "metadata.reference_image_url" in values and values["prompt"] == ""


def _ask_for_something(values: Values) -> None:
    if values["prompt"] == "" and not _is_copy(values):
        values["prompt"] = "a heron"


def _weigh_nothing(values: Values) -> None:
    for path in ("prompt", "negative_prompt", "compel_weights"):
        if values.get("compel_enabled") and path in values:
            values[path] = re.sub(r"[()\[\]]", "", values[path]) or "(a heron:1.2) over [the] bay"


def _take_enough_steps(values: Values) -> None:
    if values.get("config.scheduler") not in ("lcm", "tcd") and "config.steps" in values:
        values["config.steps"] = max(values["config.steps"], 10)


def _sides(word: str) -> tuple[int, int]:
    width, height = re.split("[x*]", word)
    return int(width), int(height)


def _size_a_picture(values: Values) -> None:
    if word := values.get("config.resolution"):
        values["config.resolution"] = "x".join(str(64 + side % 249 * 8) for side in _sides(word))


def _give_both_sides(values: Values) -> None:
    if ("config.width" in values) != ("config.height" in values):
        values.setdefault("config.width", 64)
        values.setdefault("config.height", 64)


def _mask_a_picture(values: Values) -> None:
    if _is_copy(values) or "metadata.reference_image_url" not in values:
        values.pop("config.mask", None)


def _resemble_nothing_in_copies(values: Values) -> None:
    if _is_copy(values):
        values.pop("config.references", None)


SDXL_RULES = (
    _CALLBACK,
    Rule("Only a copy of a reference has an empty prompt.", ("prompt",), _ask_for_something),
    Rule("Weights of words have brackets that match.", ("prompt", "negative_prompt", "compel_weights"), _weigh_nothing),
    Rule("Fewer than ten steps are for lcm and tcd.", ("config.steps",), _take_enough_steps),
    Rule("The sides of a resolution are multiples of 8 from 64 to 2048.", ("config.resolution",), _size_a_picture),
    Rule("Width and height come together.", ("config.width", "config.height"), _give_both_sides),
    Rule("A mask is for a reference that is not copied.", ("config.mask",), _mask_a_picture),
    Rule("A copy resembles nothing else.", ("config.references",), _resemble_nothing_in_copies),
)


def _size_a_clip(values: Values) -> None:
    if word := values.get("config.size"):
        values["config.size"] = "*".join(str(16 + side % 39 * 16) for side in _sides(word))


def _stay_small(values: Values) -> None:
    for path, most in (("config.width", 480), ("config.height", 832)):
        if path in values:
            values[path] = 16 + values[path] % most
    if ("config.width" in values) != ("config.height" in values):
        # The other side is that of a size, which may be long.
        values.pop("config.size", None)
        values.pop("config.resolution", None)


def _mean_the_references(values: Values) -> None:
    first, last = "config.first_frame" in values, "config.last_frame" in values
    if first or last:
        values.pop("config.image", None)
    mode = {(True, True): "both", (True, False): "start", (False, True): "end"}.get((first, last))
    if "config.reference_mode" in values:
        values["config.reference_mode"] = mode or ("single" if "config.image" in values else "none")


WAN_RULES = (
    _CALLBACK,
    Rule("A size has sides that are multiples of 16, and at most 399 360 pixels.", ("config.size",), _size_a_clip),
    Rule("Width times height is at most 399 360.", ("config.width", "config.height"), _stay_small),
    Rule(
        "The mode is that of the references, of which one alone excludes first and last frames.",
        ("config.reference_mode",),
        _mean_the_references,
    ),
)


def _say_something(values: Values) -> None:
    turns = values.get("messages", [])
    if (turns or "prompt" not in values) and all(turn["role"] in ("system", "developer") for turn in turns):
        values["messages"] = [*turns, {"role": "user", "content": "a heron"}]


def _agree_with_the_type(values: Values) -> None:
    if values.get("type") in ("enhance_base", "enhance_instruct"):
        values.pop("enhancement_type", None)


def _name_a_model(values: Values) -> None:
    if values.get("model") not in (None, "qwen_instruct", "qwen_base"):
        values["model"] = ("qwen_instruct", "qwen_base")[len(values["model"]) % 2]


def _bring_a_schema(values: Values) -> None:
    form = values.get("response_format", {})
    if form.get("type") == "json_schema" and form.get("json_schema") is None:
        values["response_format"] = {"type": "json_object"}


CHAT_RULES = (
    _CALLBACK,
    Rule("There is a prompt, or a message that is not the system's.", ("messages",), _say_something),
    Rule("An enhancement is of the kind that its type says.", ("enhancement_type",), _agree_with_the_type),
    Rule("A model is one of the two, or what the operator calls them.", ("model",), _name_a_model),
    Rule("An answer by a schema needs one.", ("response_format.json_schema",), _bring_a_schema),
)


def blamed(rules: tuple[Rule, ...]) -> Iterator[str]:
    """The fields that any of the rules may blame."""
    for rule in rules:
        yield from rule.blamed
