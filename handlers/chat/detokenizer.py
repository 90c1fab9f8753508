"""The text of an answer while it is written: where it stops, and what of it may already be shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream


class Answer:
    """Text that grows token by token and never takes back what it has shown.

    Args:
        tokenizer: A fast tokenizer.
        stops: The text ends before the one of these that is complete first, also where it is spread over several tokens.
        strips: Takes off the space at its beginning, which a transcript leaves to the model to write.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], *, strips: bool = False) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        # Holds back bytes of a character until the last of them is there.
        self._decoder = DecodeStream([], skip_special_tokens=True)
        self._stops = tuple(stops)
        self._strips = strips
        self._text = ""
        self._settled = 0  # a stop may begin here, and nowhere before
        self.stopped = False

    def add(self, token: int) -> None:
        """Appends a token's text, and cuts at the stop that is complete first: how a text is cut into tokens changes nothing."""
        self._text += self._decoder.step(self._tokenizer, token) or ""
        found = [(at + len(stop), at) for stop in self._stops if (at := self._text.find(stop, self._settled)) >= 0]
        if found:
            self._text = self._text[: min(found)[1]]
            self.stopped = True
        while self._settled < len(self._text) and not self._may_be_a_stop(self._text[self._settled :]):
            self._settled += 1

    @property
    def final(self) -> str:
        """The whole text."""
        return self._text.lstrip() if self._strips else self._text

    @property
    def shown(self) -> str:
        """As much of the text as no later token can change."""
        shown = self._text[: self._settled]
        return shown.lstrip() if self._strips else shown

    def _may_be_a_stop(self, end: str) -> bool:
        return any(stop.startswith(end) for stop in self._stops)
