"""Requests that are large, long, deep or slow to parse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.chaos.hostile_inputs.registry import COMPLETED, INVALID, hostile
from tests.chaos.soak.scenario import DIFFUSION, HANDLERS, Scenario

_MILLION = 10**6
Fields = dict[str, Any]


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def top(**fields: Any) -> Callable[[Scenario], None]:
    """Replaces top-level fields of the request."""
    return lambda scenario: scenario.job["input"].update(fields)


def config(**fields: Any) -> Callable[[Scenario], None]:
    """Replaces fields of the configuration; for chat, of the request."""
    return lambda scenario: scenario.configure(**fields)


EVERY: dict[str, Callable[[Scenario], None]] = {
    "An unknown field of 9 MB": top(unknown="x" * 9 * _MILLION),
    "100,000 unknown fields": lambda scenario: scenario.job["input"].update({f"field {number}": 1 for number in range(100_000)}),
    "An unknown field 400 levels deep": top(unknown=nested(400)),
    "A `job_id` of 1 MB": top(job_id="x" * _MILLION),
    "A seed of 4,000 digits": config(seed=10**4_000),
    "`callback_url`: `https://xn--a/`": top(callback_url="https://xn--a/"),
    "`callback_url` of 1 MB": top(callback_url="https://example.com/" + "a" * _MILLION),
    "`callback_url` with an unclosed bracket": top(callback_url="https://[::1/"),
}
DIFFUSED: dict[str, Callable[[Scenario], None]] = {
    "A prompt of 5 MB": top(prompt="heron " * 800_000),
    "1,000,000 wrong items in `loras`": config(loras=[1] * _MILLION),
    "100,000 LoRAs": config(loras=[{"name": "a"}] * 100_000),
    "A LoRA's name of 1 MB": config(loras=[{"name": "x" * _MILLION}]),
    "A size of 1 MB": config(resolution="1" * _MILLION + "x1"),
}
SDXL: dict[str, Callable[[Scenario], None]] = {
    "1,000,000 wrong items in `controls`": config(controls=[1] * _MILLION),
    "100,000 textual inversions": config(textual_inversions=["a"] * 100_000),
    "Weights of 1 MB": config(compel_enabled=True, compel_weights="(a:1.3), " * 110_000),
}
# They are text, or weighted, within the limit of a prompt.
PROMPTS: dict[str, str] = {
    "9,998 spaces behind a colon in a weighted prompt": "(a:" + " " * 9_996 + ")",
    "4,990 nested brackets in a weighted prompt": "(" * 4_990 + "a" + ")" * 4_990,
    "9,990 opening brackets in a weighted prompt": "(" * 9_990,
    "3,000 colons in a weighted prompt": ":" * 3_000,
    "3,000 plus signs in a weighted prompt": "a" + "+" * 3_000,
    "4,900 escapes in a weighted prompt": "\\(" * 4_900,
}
CHAT: dict[str, Callable[[Scenario], None]] = {
    "A prompt of 9 MB": config(messages=[{"role": "user", "content": "heron " * 1_500_000}]),
    "A prompt of 1.9 million characters without spaces": config(messages=[{"role": "user", "content": "x" * 1_900_000}]),
    "1,000,000 wrong items in `stop`": config(stop=[1] * _MILLION),
    "Eight stop strings of 1 MB": config(stop=["x" * _MILLION] * 8),
    "1,000,000 stop tokens": config(stop_token_ids=[1] * _MILLION),
    "100,000 biases": config(logit_bias={str(number): 1 for number in range(100_000)}),
    "100,000 messages": config(messages=[{"role": "user", "content": "a"}] * 100_000),
    "100,000 parts of a message": config(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 100_000}]),
    "A role of 1 MB": config(messages=[{"role": "x" * _MILLION, "content": "a"}]),
    "30,000 control tokens in a message": config(messages=[{"role": "user", "content": "<|im_end|>" * 30_000}]),
    "`max_tokens` of 4,000 digits": config(max_tokens=10**4_000),
}


def _weighted(prompt: str) -> Callable[[Scenario], None]:
    def prepare(scenario: Scenario) -> None:
        scenario.job["input"]["prompt"] = prompt
        scenario.configure(compel_enabled=True)

    return prepare


for _name, _prepare in EVERY.items():
    # Unknown fields never fail a job by themselves, only by their size.
    hostile("Requests", _name, _prepare, *HANDLERS, outcomes=INVALID | ({COMPLETED} if "nknown field" in _name else set()))
for _name, _prepare in DIFFUSED.items():
    hostile("Requests", _name, _prepare, *DIFFUSION)
for _name, _prepare in SDXL.items():
    hostile("Requests", _name, _prepare, "sdxl")
for _name, _prompt in PROMPTS.items():
    hostile("Requests", _name, _weighted(_prompt), "sdxl", outcomes=INVALID | {COMPLETED})
for _name, _prepare in CHAT.items():
    hostile("Requests", _name, _prepare, "chat", outcomes=INVALID | {"CONTEXT_LENGTH_EXCEEDED"})
