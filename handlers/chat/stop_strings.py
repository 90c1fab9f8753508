"""Stop strings in text that grows: what is final, and what a later piece may still turn into a stop string."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """The text of a completion, which ends before the stop string that is completed first.

    Args:
        stop: The stop strings.
        strip_leading_space: Removes leading whitespace: after a transcript prompt the model generates it itself.

    Attributes:
        stopped: Whether a stop string has been completed.
    """

    def __init__(self, stop: Sequence[str], *, strip_leading_space: bool = False) -> None:
        self._stop = tuple(stop)
        self._strip = strip_leading_space
        self._text = ""
        self._stable = 0  # characters before this offset cannot be part of a stop string
        self.stopped = False

    def add(self, text: str, *, may_stop: bool = True) -> None:
        """Appends text, and truncates at the stop string that is completed first: the result does not depend on where pieces end.

        Args:
            text: The next piece.
            may_stop: Whether stop strings are looked for from here on.
        """
        self._text += text
        if not may_stop:
            self._stable = len(self._text)
            return
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
        """The longest prefix of the text that no later piece can change."""
        return self._strip_leading_space(self._text[: self._stable])

    def _strip_leading_space(self, text: str) -> str:
        return text.lstrip() if self._strip else text

    def _may_start_stop_string(self, suffix: str) -> bool:
        return any(stop.startswith(suffix) for stop in self._stop)
