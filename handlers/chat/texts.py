"""The text of an answer while it is written: where it stops, and what of it may already be shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream


class Answer:
    """Text that grows token by token and never takes back what it has shown.

    Args:
        tokenizer: A fast tokenizer.
        stops: The text ends before the first of these, also where one is spread over several tokens.
        strips: Takes off the space at its beginning, which a transcript leaves to the model to write.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], *, strips: bool = False) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        # Holds back bytes of a character until the last of them is there.
        self._decoder = DecodeStream([], skip_special_tokens=True)
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._strips = strips
        self._text = ""
        self.stopped = False

    def add(self, token: int) -> None:
        """Appends a token's text, and cuts at the first stop."""
        self._text += self._decoder.step(self._tokenizer, token) or ""
        found = [at for stop in self._stops if (at := self._text.find(stop)) >= 0]
        if found:
            self._text = self._text[: min(found)]
            self.stopped = True

    @property
    def final(self) -> str:
        """The whole text."""
        return self._text.lstrip() if self._strips else self._text

    @property
    def shown(self) -> str:
        """As much of the text as no later token can change."""
        shown = self._text[: len(self._text) - self._undecided()]
        return shown.lstrip() if self._strips else shown

    def _undecided(self) -> int:
        """How many characters at the end may be the beginning of a stop."""
        lengths = range(min(self._longest, len(self._text)), 0, -1)
        return next((length for length in lengths if any(stop.startswith(self._text[-length:]) for stop in self._stops)), 0)
