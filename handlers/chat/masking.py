"""Masks the operator's word list in text that is still being generated."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import regex

# Word characters: letters, digits, combining marks and the zero-width joiners. Not the underscore: `_word_` is Markdown for italics.
_WORD_CHARACTER = r"[\p{L}\p{N}\p{M}\u200c\u200d]"
# Scripts that are written without spaces. There are no word boundaries to test for, so a listed word matches at any position.
_UNSPACED_SCRIPT = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")


class WordList:
    """A compiled word list. Immutable; shared by all maskers.

    Args:
        words: Words or phrases, matched as a whole, case-insensitively and with any amount of whitespace inside a phrase. If several match
            at the same position, the longest wins.

    Attributes:
        match: Matches any entry.
        partial: Matches, at the end of a text, any prefix of an entry.
    """

    def __init__(self, words: Sequence[str]) -> None:
        spellings = sorted({spelling for word in words for spelling in _spellings(word)}, key=lambda word: (-len(word), word))
        self.match = _compile(_whole_word(word) for word in spellings)
        self.partial = _compile(rf"{_left_boundary(word)}{_any_prefix(_parts(word))}\Z" for word in spellings)


class IncrementalMasker:
    """Replaces every non-space character of listed words by an asterisk, and holds back text that may turn out to be one.

    Args:
        words: The words to mask.

    Attributes:
        stable_text: The masked prefix of the text that later input cannot change.
    """

    def __init__(self, words: WordList) -> None:
        self.stable_text = ""
        self._words = words
        self._text = ""
        self._consumed = 0  # the offset in `_text` up to which `stable_text` covers it

    def add(self, text: str) -> None:
        """Appends text."""
        self._text += text
        masked, self._consumed = self._mask(at_end=False)
        self.stable_text += masked

    @property
    def text(self) -> str:
        """The whole masked text, to be used once generation has ended."""
        return self.stable_text + self._mask(at_end=True)[0]

    def _mask(self, *, at_end: bool) -> tuple[str, int]:
        """Masks the text from `_consumed` to the first position where a listed word may have started, and returns that position, too."""
        offset = self._consumed
        parts: list[str] = []
        while True:
            partial = None if at_end else self._words.partial.search(self._text, offset)
            limit = len(self._text) if partial is None else partial.start()
            word = self._words.match.search(self._text, offset)
            if word is None or word.start() >= limit:
                return "".join([*parts, self._text[offset:limit]]), limit
            parts += [self._text[offset : word.start()], regex.sub(r"\S", "*", word[0])]
            offset = word.end()


def _compile(patterns: Iterable[str]) -> regex.Pattern[str]:
    """Compiles the alternation of the patterns; matches nothing if there are none."""
    return regex.compile("|".join(patterns) or r"(?!)", regex.IGNORECASE)


def _spellings(word: str) -> Iterator[str]:
    """Yields the encodings of a word: with composed and decomposed accents, and with `ss` for `ß`."""
    for spelling in (word, word.casefold()):
        yield from (unicodedata.normalize(form, spelling) for form in ("NFC", "NFD"))


def _whole_word(word: str) -> str:
    right_boundary = "" if _UNSPACED_SCRIPT.match(word[-1]) else f"(?!{_WORD_CHARACTER})"
    return _left_boundary(word) + "".join(_parts(word)) + right_boundary


def _left_boundary(word: str) -> str:
    return "" if _UNSPACED_SCRIPT.match(word[0]) else f"(?<!{_WORD_CHARACTER})"


def _parts(word: str) -> list[str]:
    """Returns one pattern per character, and one for the whitespace between two words."""
    words = [[regex.escape(character) for character in part] for part in word.split()]
    return [pattern for index, part in enumerate(words) for pattern in ([r"\s+", *part] if index else part)]


def _any_prefix(parts: Sequence[str]) -> str:
    """Returns a pattern that matches every non-empty prefix of the concatenated parts."""
    pattern = ""
    for part in reversed(parts):
        pattern = f"{part}(?:{pattern})?" if pattern else part
    return pattern
