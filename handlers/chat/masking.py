"""The operator's words, masked in a text while it is written."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import regex

# What words are made of: letters, digits, the marks on them, and the joiners within them. An underscore is none: `_word_` is how Markdown
# sets a word in italics.
_LETTER = r"[\p{L}\p{N}\p{M}\u200c\u200d]"
# In these scripts no space is between words. A word is found wherever its characters are, for nothing tells where one begins.
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")


class WordList:
    """What is to be masked, ready to be looked for. Made once; any number of texts may use it.

    Args:
        words: Whole words, or phrases, of which each character but the spaces is replaced by an asterisk. Case, and how many spaces are
            within a phrase, do not matter. Of two that begin at the same place the longer one counts.

    Attributes:
        whole: Matches each of them.
        begun: Matches, at the end of a text, each beginning of one.
    """

    def __init__(self, words: Sequence[str]) -> None:
        spelt = sorted({spelling for word in words for spelling in _spellings(word)}, key=lambda word: (-len(word), word))
        self.whole = _compile(_whole(word) for word in spelt)
        self.begun = _compile(rf"{_left(word)}{_beginning(_parts(word))}\Z" for word in spelt)


class Masked:
    """A text that grows piece by piece and never shows a masked word, nor takes back what it has shown.

    Args:
        words: What is masked.

    Attributes:
        shown: As much of the text as no later piece can change.
    """

    def __init__(self, words: WordList) -> None:
        self.shown = ""
        self._words = words
        self._text = ""
        self._read = 0  # so much of the text has been shown

    def add(self, text: str) -> None:
        """Appends a piece."""
        self._text += text
        decided, self._read = self._decide(ended=False)
        self.shown += decided

    @property
    def final(self) -> str:
        """The whole text."""
        return self.shown + self._decide(ended=True)[0]

    def _decide(self, *, ended: bool) -> tuple[str, int]:
        """What comes after `shown`, and up to where in the text it goes: the first place where a word may just have begun."""
        at = self._read
        pieces: list[str] = []
        while True:
            begun = None if ended else self._words.begun.search(self._text, at)
            limit = len(self._text) if begun is None else begun.start()
            word = self._words.whole.search(self._text, at)
            if word is None or word.start() >= limit:
                return "".join([*pieces, self._text[at:limit]]), limit
            pieces += [self._text[at : word.start()], regex.sub(r"\S", "*", word[0])]
            at = word.end()


def _compile(patterns: Iterable[str]) -> regex.Pattern[str]:
    """Whatever matches one of the patterns; without any, nothing does."""
    return regex.compile("|".join(patterns) or r"(?!)", regex.IGNORECASE)


def _spellings(word: str) -> Iterator[str]:
    """A word as it may be encoded: with its accents as characters of their own or not, and with `ss` for `ß`."""
    for spelling in (word, word.casefold()):
        yield from (unicodedata.normalize(form, spelling) for form in ("NFC", "NFD"))


def _whole(word: str) -> str:
    right = "" if _UNSPACED.match(word[-1]) else f"(?!{_LETTER})"
    return _left(word) + "".join(_parts(word)) + right


def _left(word: str) -> str:
    return "" if _UNSPACED.match(word[0]) else f"(?<!{_LETTER})"


def _parts(word: str) -> list[str]:
    """A pattern for each character, and one for the space between two words."""
    parts = [[regex.escape(character) for character in part] for part in word.split()]
    return [pattern for index, part in enumerate(parts) for pattern in ([r"\s+", *part] if index else part)]


def _beginning(parts: Sequence[str]) -> str:
    """Matches every beginning of what the parts match together."""
    pattern = ""
    for part in reversed(parts):
        pattern = f"{part}(?:{pattern})?" if pattern else part
    return pattern
