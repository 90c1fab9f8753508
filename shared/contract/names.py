"""Names in a request: shown without leaking keys, and matched with the known names they resemble."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

# Excluded are what makes a path, a wildcard or a URL, lookalikes of slashes, and characters that are invisible or change the direction
# of text. The escapes mean the same in Python, Rust and JavaScript.
_EXCLUDED = (
    r"\x00-\x1f\x7f-\x9f/\\:*?\x22<>|%.\u00a0\u00ad\u061c\u115f\u1160\u180e\u2000-\u200f\u2024-\u202f\u2044\u205f-\u206f\u2215\u3164\ufe00-\ufe0f"
    r"\ufeff\uff0e\uff0f\uff3c\uffa0\ufff0-\uffff"
)
ADDON_NAME = rf"^[^{_EXCLUDED} -](\.?[^{_EXCLUDED}])*\.?$"
"""A regular expression for the name of an add-on: a file name as people give them, in any script, and never a path."""

_MAX_LENGTH = 64
_SHOWABLE = re.compile(rf"[A-Za-z0-9_.-]{{1,{_MAX_LENGTH}}}")
_MIN_SIMILARITY = 0.75
# Prefixes of the keys and tokens of well-known services; every JSON Web Token starts with `eyJ`.
_KEY = re.compile(
    r"(?:(?:sk|pk|rk|hf|sb|sbp|rpa|r8|whsec|gh[opsru]|github_pat|glpat|xox[abprs])[-_]|AKIA|ASIA|AIza|eyJ)[A-Za-z0-9_.-]{16,}"
)


def show_name(name: object) -> str:
    """Returns a name if it is short and plain, else only its length."""
    if not isinstance(name, str):
        return "(a name that is not text)"
    return name if _SHOWABLE.fullmatch(name) and not looks_like_a_key(name) else _redacted(name)


def quote_name(name: str) -> str:
    """Quotes a valid name; one that may be a misplaced key is shown by its length."""
    return _redacted(name) if looks_like_a_key(name) else repr(name)


def looks_like_a_key(text: str) -> bool:
    """Returns whether a word has the prefix and the length of a service's key or token."""
    return _KEY.match(text) is not None


def _redacted(name: str) -> str:
    return f"(a name of {len(name)} characters)"


class Vocabulary:
    """Known names, for suggesting the one that a misspelt name resembles.

    Args:
        names: Pairs of a name and the text to suggest for it.
    """

    def __init__(self, names: Iterable[tuple[str, str]]) -> None:
        self._meanings: Mapping[str, str] = {_normalized(name): meaning for name, meaning in names}

    def nearest(self, name: object) -> str | None:
        """Returns the suggestion for a name: `guidanceScale` and `guidence_scale` both resemble `guidance_scale`."""
        if not isinstance(name, str) or len(name) > _MAX_LENGTH:
            return None
        close = difflib.get_close_matches(_normalized(name), self._meanings, n=1, cutoff=_MIN_SIMILARITY)
        return self._meanings[close[0]] if close else None


def _normalized(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
