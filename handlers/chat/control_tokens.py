"""Encodes rendered conversations: control tokens of the template become tokens, those that a message contains stay text."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from handlers.chat.text_tokenizer import is_control, text_tokenizer

_DIGITS = "".join(map(chr, range(0xE010, 0xE01A)))


class ControlTokens:
    """The control tokens of a tokenizer: all of its added tokens, except runs of whitespace.

    Args:
        tokenizer: A fast tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {token.content: (token_id, token) for token_id, token in tokenizer.added_tokens_decoder.items()}
        self.all = frozenset(filter(is_control, self._added))
        self.special = frozenset(content for content in self.all if self._added[content][1].special)

    def encode(self, rendered: str, restore: Callable[[str], str]) -> list[int]:
        """Encodes a rendered template, in which the control tokens of messages are masked.

        Args:
            rendered: The text of the template.
            restore: Replaces masks by what they stand for.
        """
        ids: list[int] = []
        strips = False  # whether the token before takes the whitespace that follows it
        pattern = _any_of(self._added)
        for part in pattern.split(rendered) if pattern is not None else [rendered]:
            if part in self._added:
                ids.append(self._added[part][0])
                strips = self._added[part][1].rstrip
            elif part:
                ids += self.encode_as_text(restore(part.lstrip() if strips else part), starts=not ids)
                strips = False
        return ids

    def encode_as_text(self, text: str, *, starts: bool = True) -> list[int]:
        """Encodes text without recognising control tokens in it.

        Args:
            text: The text.
            starts: Whether the prompt starts with it.
        """
        return text_tokenizer(self._tokenizer, len(self._tokenizer)).encode(text, starts=starts)


class TokenMask:
    """Masks control tokens in messages, and parts of them at the ends, which a template might join.

    Args:
        tokens: The tokens to mask.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = sorted(tokens, key=len, reverse=True)
        self._pattern = _any_of(self._tokens)
        self._nonce = _private_digits(secrets.randbelow(10**12))  # cannot be guessed, so that no message contains a mask
        self._masked: list[str] = []

    @property
    def used(self) -> bool:
        """Whether anything has been masked."""
        return bool(self._masked)

    def mask(self, text: str) -> str:
        """Masks a message."""
        if self._pattern is None:
            return text
        parts = [part if index % 2 == 0 else self._hide(part) for index, part in enumerate(self._pattern.split(text))]
        parts[-1] = self._hide_end(parts[-1])
        parts[0] = self._hide_start(parts[0])
        return "".join(parts)

    def restore(self, text: str) -> str:
        """Replaces masks by what they stand for."""
        return re.sub(f"\ue000{self._nonce}([{_DIGITS}]+)\ue001", lambda match: self._masked[_number(match[1])], text)

    def _hide(self, text: str) -> str:
        self._masked.append(text)
        return f"\ue000{self._nonce}{_private_digits(len(self._masked) - 1)}\ue001"

    def _hide_end(self, text: str) -> str:
        kept = text.rstrip()
        size = max((_overlap(kept, token) for token in self._tokens), default=0)
        return kept[: len(kept) - size] + self._hide(kept[len(kept) - size :]) + text[len(kept) :] if size else text

    def _hide_start(self, text: str) -> str:
        kept = text.lstrip()
        size = max((_overlap(token, kept) for token in self._tokens), default=0)
        return text[: len(text) - len(kept)] + self._hide(kept[:size]) + kept[size:] if size else text


def _private_digits(number: int) -> str:
    """Formats a number in characters for private use: a tokenizer may have digits as added tokens."""
    return "".join(_DIGITS[int(digit)] for digit in str(number))


def _number(digits: str) -> int:
    return int("".join(str(_DIGITS.index(digit)) for digit in digits))


def _overlap(first: str, second: str) -> int:
    """Returns how many characters at the end of the first text begin the second one."""
    return next((size for size in range(min(len(first), len(second)), 0, -1) if first[-size:] == second[:size]), 0)


def _any_of(tokens: Iterable[str]) -> re.Pattern[str] | None:
    escaped: Sequence[str] = [re.escape(token) for token in sorted(tokens, key=len, reverse=True)]
    return re.compile(f"({'|'.join(escaped)})") if escaped else None
