"""Notices when a base model goes round in circles: it was never taught to end an answer, and would do so until `max_tokens`."""

from __future__ import annotations

from collections import deque

_WINDOW = 40  # tokens: nobody writes so many twice by chance
_LINES = 3


class Repetition:
    """Watches one answer.

    Attributes:
        found: Whether its last tokens stood in it before, or its last lines are all the same.
    """

    def __init__(self) -> None:
        self.found = False
        self._last: deque[int] = deque(maxlen=_WINDOW)
        self._windows: set[tuple[int, ...]] = set()

    def add(self, token: int, text: str) -> bool:
        """Looks at the answer after its next token. Returns `found`.

        Args:
            token: The token.
            text: The whole answer.
        """
        self._last.append(token)
        window = tuple(self._last)
        lines = text.rsplit("\n", _LINES + 1)[-_LINES - 1 : -1]  # without the one that is still being written
        alike = len(lines) == _LINES and len(set(lines)) == 1 and bool(lines[0].strip())
        self.found = alike or (len(window) == _WINDOW and window in self._windows)
        self._windows.add(window)
        return self.found
