"""The text of an answer while it is written: where it stops, and what of it may already be shown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream


class Answer:
    """Text that grows token by token and never takes back what it has shown.

    Args:
        tokenizer: A fast tokenizer.
        stops: The text ends before the first of these, also where one is spread over several tokens.
        masked: Whole words that are replaced by asterisks, in any case.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], masked: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        # Holds back bytes of a character until the last of them is there.
        self._decoder = DecodeStream([], skip_special_tokens=True)
        self._stops = tuple(stops)
        self._words = tuple(word.lower() for word in masked)
        self._longest = max(map(len, (*stops, *masked)), default=0)
        self._masked = re.compile(rf"\b(?:{'|'.join(map(re.escape, masked))})\b", re.IGNORECASE) if masked else None
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
        return self._mask(self._text)

    @property
    def shown(self) -> str:
        """As much of the text as no later token can change."""
        # Masked before it is cut: at a cut, the beginning of a longer word would look like a whole one.
        return self._mask(self._text)[: len(self._text) - self._undecided()]

    def _undecided(self) -> int:
        """How many characters at the end may be the beginning of a stop, or of a masked word, or one whose end is not in sight."""
        lengths = range(min(self._longest, len(self._text)), 0, -1)
        return next((length for length in lengths if self._may_begin(self._text[-length:])), 0)

    def _may_begin(self, end: str) -> bool:
        return any(stop.startswith(end) for stop in self._stops) or any(word.startswith(end.lower()) for word in self._words)

    def _mask(self, text: str) -> str:
        return text if self._masked is None else self._masked.sub(lambda word: "*" * len(word[0]), text)
