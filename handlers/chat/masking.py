"""The operator's words, masked in a text while it is written."""

from __future__ import annotations

import re
from collections.abc import Sequence


class Masked:
    """A text that grows piece by piece and never shows a masked word, nor takes back what it has shown.

    Args:
        words: Whole words that are replaced by asterisks, in any case.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(word.lower() for word in words)
        self._longest = max(map(len, words), default=0)
        self._pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE) if words else None
        self._text = ""

    def add(self, text: str) -> None:
        """Appends a piece."""
        self._text += text

    @property
    def final(self) -> str:
        """The whole text."""
        return self._mask(self._text)

    @property
    def shown(self) -> str:
        """As much of the text as no later piece can change."""
        # Masked before it is cut: at a cut, the beginning of a longer word would look like a whole one.
        return self._mask(self._text)[: len(self._text) - self._undecided()]

    def _undecided(self) -> int:
        """How many characters at the end may be the beginning of a masked word, or one whose end is not in sight."""
        lengths = range(min(self._longest, len(self._text)), 0, -1)
        return next((length for length in lengths if self._may_begin(self._text[-length:].lower())), 0)

    def _may_begin(self, end: str) -> bool:
        return any(word.startswith(end) for word in self._words)

    def _mask(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(lambda word: "*" * len(word[0]), text)
