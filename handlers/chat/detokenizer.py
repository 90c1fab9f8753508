"""Incremental detokenisation with stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handlers.chat.stop_strings import StopStrings

# The most tokens that a character can consist of: byte tokens of UTF-8. A longer run of bytes is not text.
_MAX_CHARACTER_TOKENS = 4
_REPLACEMENT = "\ufffd"  # what decoders write for bytes that are not a whole character


class IncrementalDetokenizer:
    """Turns token ids into text one at a time, and separates the text that is final from the part that a later token may still change.

    Args:
        tokenizer: A fast tokenizer.
        stop: Stop strings. The text ends before the one that is completed first, also if it spans several tokens.
        strip_leading_space: Removes leading whitespace: after a transcript prompt the model generates it itself.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], *, strip_leading_space: bool = False) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        self._context: list[int] = []  # the tokens of the latest text, because decoding depends on the tokens before
        self._context_text = ""
        self._pending: list[int] = []  # tokens whose text is not known yet, such as the first bytes of a character
        self._output = StopStrings(stop, strip_leading_space=strip_leading_space)

    def add(self, token: int, *, may_stop: bool = True) -> None:
        """Appends a token, and truncates at the stop string that is completed first: the result does not depend on token boundaries.

        Args:
            token: Its id.
            may_stop: Whether stop strings are looked for from here on.
        """
        self._output.add(self._decode(token), may_stop=may_stop)

    def _decode(self, token: int) -> str:
        """Returns the text that a token adds; an empty string as long as it depends on later tokens.

        Decoders are not monotonic: with byte fallback, a stray byte after `é` turns all of its bytes into replacement characters. Text that
        has been returned stays; the tokens after it are then decoded without it.
        """
        self._pending.append(token)
        text = self._decode_all([*self._context, *self._pending])
        if text.endswith(_REPLACEMENT) and len(self._pending) < _MAX_CHARACTER_TOKENS:
            return ""
        added = text[len(self._context_text) :] if text.startswith(self._context_text) else self._decode_all(self._pending)
        self._context, self._pending = self._pending, []
        self._context_text = self._decode_all(self._context)
        return added

    def _decode_all(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    @property
    def stopped(self) -> bool:
        """Whether a stop string has been completed."""
        return self._output.stopped

    @property
    def text(self) -> str:
        """The whole text, to be used once generation has ended."""
        return self._output.text

    @property
    def stable_text(self) -> str:
        """The longest prefix of the text that no later token can change."""
        return self._output.stable_text
