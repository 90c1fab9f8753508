"""Detects that a base model has started to repeat itself: it has no end-of-turn token and would go on until `max_tokens`."""

from __future__ import annotations

from collections import deque

_WINDOW = 40  # tokens: long enough not to recur by chance
_LINES = 3


class RepetitionDetector:
    """Watches the tokens of one completion.

    Attributes:
        detected: Whether the last 40 tokens have occurred before, or the last three complete lines are equal.
    """

    def __init__(self) -> None:
        self.detected = False
        self._recent: deque[int] = deque(maxlen=_WINDOW)
        self._windows: set[tuple[int, ...]] = set()

    def add(self, token: int, text: str) -> bool:
        """Adds a token and returns `detected`.

        Args:
            token: The new token's id.
            text: The whole completion so far.
        """
        self._recent.append(token)
        window = tuple(self._recent)
        lines = text.rsplit("\n", _LINES + 1)[-_LINES - 1 : -1]  # without the incomplete last line
        equal_lines = len(lines) == _LINES and len(set(lines)) == 1 and bool(lines[0].strip())
        self.detected = equal_lines or (len(window) == _WINDOW and window in self._windows)
        self._windows.add(window)
        return self.detected
