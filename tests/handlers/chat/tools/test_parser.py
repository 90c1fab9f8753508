"""Tool calls in the text of a completion: content and calls only grow, and what is no call is content."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.chat.tools.parser import FunctionCall, SplitText, split_calls

NAMES = frozenset({"weather", "time"})


def call(name: str = "weather", **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"


def split(text: str) -> tuple[str, list[tuple[str, dict[str, object]]]]:
    found = split_calls(text, NAMES, final=True)
    return found.content, [(each.name, each.arguments) for each in found.calls]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("Hello.", "Hello.", []),
        ("Hello. \n", "Hello. \n", []),
        (call(city="Bern"), "", [("weather", {"city": "Bern"})]),
        ("I ask.\n" + call(city="Bern"), "I ask.", [("weather", {"city": "Bern"})]),
        (call(a=1) + "\n" + call("time"), "", [("weather", {"a": 1}), ("time", {})]),
        (call(text="</tool_call> <tool_call>"), "", [("weather", {"text": "</tool_call> <tool_call>"})]),
        (call(city="Bern").removesuffix("\n</tool_call>"), "", [("weather", {"city": "Bern"})]),
        (" " + call("unknown") + call("time"), " " + call("unknown"), [("time", {})]),
    ],
    ids=str,
)
def test_content_and_calls_are_separated(text: str, content: str, calls: list[tuple[str, dict[str, object]]]) -> None:
    assert split(text) == (content, calls)


@pytest.mark.parametrize(
    "text",
    [
        call("unknown"), "<tool_call>", "<tool_call>\n", "<tool_call>{}</tool_call>", "<tool_call>[1]</tool_call>", "a <tool_call> b",
        '<tool_call>{"name": "weather", "arguments": "x"}</tool_call>', '<tool_call>{"name": "time", "arguments": {"a": NaN}}</tool_call>',
        '<tool_call>{"name": "weather", "argum', '<tool_call>{"name": "weather", "arguments": {}} and more', "<tool_call>" + "[" * 5000,
        '<tool_call>{"name": "weather", "arguments": {"a": ' + "9" * 5000 + "}}</tool_call>",
    ],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_what_is_not_a_call_of_a_known_function_is_content(text: str) -> None:
    assert split(text) == (text, [])


PIECES = st.sampled_from(
    [call(city="Bern"), call("time"), call("unknown"), "<tool_call>", "</tool_call>", "<tool", "Hello", " ", "\n", '{"name"', "<", "🦢"]
)


@given(st.lists(PIECES, max_size=6), st.data())
def test_content_and_calls_only_grow_while_the_text_is_generated(pieces: list[str], data: st.DataObject) -> None:
    text, earlier = "".join(pieces), SplitText("", ())
    for length in sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12))):
        now = split_calls(text[:length], NAMES, final=False)
        assert now.content.startswith(earlier.content)
        assert now.calls[: len(earlier.calls)] == earlier.calls
        earlier = now
    final = split_calls(text, NAMES, final=True)
    assert final.content.startswith(earlier.content)
    assert final.calls[: len(earlier.calls)] == earlier.calls
    assert all(isinstance(each, FunctionCall) for each in final.calls)


def test_a_complete_call_is_known_before_the_end() -> None:
    assert len(split_calls(call(a=1), NAMES, final=False).calls) == 1
    assert split_calls(call(a=1)[:-1], NAMES, final=False) == SplitText("", ())
