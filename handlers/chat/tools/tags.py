"""The tags of tool calls, in text and in grammars."""

from __future__ import annotations

from typing import Any

OPENING, CLOSING = "<tool_call>", "</tool_call>"

TAGS_AS_TEXT = f'opened[lazy]: TEXT "{OPENING}"\nbegin: "{OPENING}"\nend: "{CLOSING}"'
"""The rules for the tags in a grammar of llguidance."""

TAGS_AS_TOKENS = f"opened: TEXT {OPENING}\nbegin: {OPENING}\nend: {CLOSING}"
"""The same for a tokenizer in which each tag is a token."""


def with_tag_tokens(grammar: str, tokenizer: Any) -> str:
    """Returns a grammar in which the tags are tokens, if they are tokens of the tokenizer."""
    has_tokens = {OPENING, CLOSING} <= tokenizer.get_added_vocab().keys()
    return grammar.replace(TAGS_AS_TEXT, TAGS_AS_TOKENS) if has_tokens else grammar
