"""Random inputs of chat jobs, of which most are valid: conversations, constraints, tools and sampling values."""

from __future__ import annotations

from random import Random
from typing import Any

from handlers.chat.openai.request import CHAT_ROUTE, OPENAI_FIELDS
from tests.fuzzing.conversations.schemas import random_constraint, random_nested
from tests.fuzzing.conversations.templates import Template
from tests.fuzzing.conversations.texts import random_text, short_text

_ROLES = ("system", "user", "assistant", "tool", "developer")
_ARGUMENTS = ('{"at": "bay"}', "{}", '{"a": "</tool_call>"}', "[]", "{")
_JUNK: tuple[Any, ...] = (None, True, -1, 1e308, 2**53, "x", "", [], [[]], {}, {"a": None}, ["\0"], "\ud800")
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.1, 2.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}


class RequestGenerator:
    """Draws inputs of jobs, in the contract's own form or in OpenAI's.

    Args:
        seed: Determines everything that is drawn.
        template: The template of the model, whose control tokens occur in texts.
        vocabulary_size: The number of its tokens.
    """

    def __init__(self, seed: str, template: Template, vocabulary_size: int) -> None:
        self._random = Random(seed)
        self._template = template
        self._vocabulary_size = vocabulary_size

    def draw(self) -> dict[str, Any]:
        """Returns the next input."""
        random, most = self._random, self._random.randint(1, 24)
        body = {"model": "qwen_instruct", "messages": self._messages(), "max_tokens": most}
        body |= self._sampling(most) | random_constraint(random) | self._tools()
        if random.random() < 0.1:
            body |= random.choice(({"max_tokens": 700}, {"max_tokens": None}, {"max_completion_tokens": most}, {"min_tokens": 12}))
        if random.random() < 0.1:
            body[random.choice(sorted(OPENAI_FIELDS))] = random.choice(_JUNK)
        if random.random() < 0.5:
            return body
        return {"openai_route": CHAT_ROUTE, "openai_input": body}

    def _text(self) -> str:
        return random_text(self._random, self._template)

    def _messages(self) -> list[dict[str, Any]]:
        random = self._random
        kind = random.choice(("turns", "turns", "turns", "system", "any"))
        if kind == "any":
            return [self._message() for _ in range(random.randint(0, 5))]
        count = random.choice((1, 1, 3, 5, 2))
        turns = [{"role": ("user", "assistant")[at % 2], "content": self._text()} for at in range(count)]
        return [{"role": "system", "content": self._text()}, *turns] if kind == "system" else turns

    def _message(self) -> dict[str, Any]:
        random, role = self._random, self._random.choice(_ROLES)
        content: Any = self._text() if random.random() < 0.7 else [{"type": "text", "text": self._text()}]
        message = {"role": role, "content": content}
        if role == "tool":
            message["tool_call_id"] = "c"
        if role == "assistant" and random.random() < 0.5:
            function = {"name": "look0", "arguments": random.choice(_ARGUMENTS)}
            message["tool_calls"] = [{"id": "c", "type": "function", "function": function}]
        return message

    def _sampling(self, most: int) -> dict[str, Any]:
        random = self._random
        drawn: dict[str, Any] = {name: self._number(*limits) for name, limits in _RANGES.items() if random.random() < 0.4}
        drawn |= {"top_k": random.randint(-1, 40), "seed": random.randint(0, 2**31 - 1), "min_tokens": random.randint(0, most)}
        drawn |= {"stream": random.random() < 0.5, "n": random.randint(1, 2), "parallel_tool_calls": random.random() < 0.5}
        drawn |= {"stop": [short_text(random) or "a", self._text()[:1000] or "b"], "stop_token_ids": [self._token()]}
        drawn |= {"logit_bias": {str(self._token()): random.choice((-100, 100, self._number(-100, 100)))}}
        drawn |= random.choice(({"sfw_mode": True}, {"logprobs": True}, {"logprobs": True, "top_logprobs": random.randint(0, 20)}))
        if random.random() < 0.1:
            drawn["continue_final_message"] = True
        return {name: value for name, value in drawn.items() if name in ("logprobs", "top_logprobs") or random.random() < 0.5}

    def _number(self, least: float, most: float) -> float:
        return self._random.choice((least, most, self._random.uniform(least, most)))

    def _token(self) -> int:
        beyond = 5 if self._random.random() < 0.03 else -1
        return self._random.randint(0, self._vocabulary_size + beyond)

    def _tools(self) -> dict[str, Any]:
        if self._random.random() < 0.7:
            return {}
        functions = [{"name": f"look{at}", "parameters": random_nested(self._random)} for at in range(self._random.randint(1, 2))]
        choice = self._random.choice(("auto", "none", "required", {"type": "function", "function": {"name": "look0"}}))
        return {"tools": [{"type": "function", "function": function} for function in functions], "tool_choice": choice}
