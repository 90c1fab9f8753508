"""Random texts of messages, in which control tokens and parts of them are frequent."""

from __future__ import annotations

from random import Random

from tests.fuzzing.conversations.templates import Template

_TEXTS = (
    "hello",
    "",
    " ",
    "\n\n",
    "🦢🏽",
    "\u2581",
    "<0xC3>",
    "e\u0301",
    "中文",
    "##ing",
    "\ufffd",
    '{"a": 1}',
    "a" * 200,
    "\ue0000\ue001",
    "\u200d",
)
_TOKENS = ("<s>", "</s>", "<unk>", "<tool_call>", "</tool_call>", "</think>", "[/INST]", "<|im_end|>", "<|eot_id|>", "<end_of_turn>")
_LONG = "word " * 900
_MAX_CODE_POINT = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)


def short_text(random: Random) -> str:
    """Draws up to eight characters of any script, or of ASCII."""
    most = random.choice((0x7F, 0x7FF, _MAX_CODE_POINT))
    codes = (random.randint(1, most) for _ in range(random.randint(0, 8)))
    return "".join(chr(code) for code in codes if code not in _SURROGATES)


def random_text(random: Random, template: Template) -> str:
    """Draws a text."""
    if random.random() < 0.01:
        return _LONG
    return "".join(_part(random, (*template.special, *template.added, *_TOKENS)) for _ in range(random.randint(0, 4)))


def _part(random: Random, tokens: tuple[str, ...]) -> str:
    match random.choice(("text", "short", "token", "part of a token")):
        case "text":
            return random.choice(_TEXTS)
        case "short":
            return short_text(random)
        case "token":
            return random.choice(tokens)
    token = random.choice(tokens)
    start, end = sorted((random.randint(0, len(token)), random.randint(0, len(token))))
    return token[start:end]
