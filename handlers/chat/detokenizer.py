"""Incremental detokenisation with stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream


class IncrementalDetokenizer:
    """Turns token ids into text one at a time, and separates the text that is final from the part that a later token may still change.

    Args:
        tokenizer: A fast tokenizer.
        stop: Stop strings. The text ends before the one that is completed first, also if it spans several tokens.
        strip_leading_space: Removes leading whitespace: after a transcript prompt the model generates it itself.

    Attributes:
        stopped: Whether a stop string has been completed.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], *, strip_leading_space: bool = False) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        # Buffers the bytes of a character until all of them are known.
        self._decoder = DecodeStream([], skip_special_tokens=True)
        self._stop = tuple(stop)
        self._strip = strip_leading_space
        self._text = ""
        self._stable = 0  # characters before this offset cannot be part of a stop string
        self.stopped = False

    def add(self, token: int) -> None:
        """Appends a token, and truncates at the stop string that is completed first: the result does not depend on token boundaries."""
        self._text += self._decoder.step(self._tokenizer, token) or ""
        matches = [(start + len(stop), start) for stop in self._stop if (start := self._text.find(stop, self._stable)) >= 0]
        if matches:
            _, start = min(matches)
            self._text = self._text[:start]
            self.stopped = True
        while self._stable < len(self._text) and not self._may_start_stop_string(self._text[self._stable :]):
            self._stable += 1

    @property
    def text(self) -> str:
        """The whole text, to be used once generation has ended."""
        return self._strip_leading_space(self._text)

    @property
    def stable_text(self) -> str:
        """The longest prefix of the text that no later token can change."""
        return self._strip_leading_space(self._text[: self._stable])

    def _strip_leading_space(self, text: str) -> str:
        return text.lstrip() if self._strip else text

    def _may_start_stop_string(self, suffix: str) -> bool:
        return any(stop.startswith(suffix) for stop in self._stop)
