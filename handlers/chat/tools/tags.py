"""The tags of tool calls, in text and in grammars."""

from __future__ import annotations

OPENING, CLOSING = "<tool_call>", "</tool_call>"

TAGS_AS_TEXT = f'opened[lazy]: TEXT "{OPENING}"\nbegin: "{OPENING}"\nend: "{CLOSING}"'
"""The rules for the tags in a grammar of llguidance."""

TAGS_AS_TOKENS = f"opened: TEXT {OPENING}\nbegin: {OPENING}\nend: {CLOSING}"
"""The same for a tokenizer in which each tag is a token."""
