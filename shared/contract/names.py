"""Names that a caller wrote: shown safely, and compared with the names that were probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

_LONGEST = 64
_SHOWABLE = re.compile(rf"[A-Za-z0-9_.-]{{1,{_LONGEST}}}")
_LIKENESS = 0.75
# As services begin their keys and tokens; `eyJ` is the beginning of every JSON Web Token.
_KEY = re.compile(
    r"(?:(?:sk|pk|rk|hf|sb|sbp|rpa|r8|whsec|gh[opsru]|github_pat|glpat|xox[abprs])[-_]|AKIA|ASIA|AIza|eyJ)[A-Za-z0-9_.-]{16,}"
)


def show_name(name: object) -> str:
    """A name fit to be shown: itself when it is short and plain, else only how long it is."""
    if not isinstance(name, str):
        return "(a name that is not text)"
    return name if _SHOWABLE.fullmatch(name) and not looks_like_a_key(name) else _by_its_length(name)


def quote_name(name: str) -> str:
    """A name that is valid, in quotes; by its length where somebody may have put a key in the place of a name."""
    return _by_its_length(name) if looks_like_a_key(name) else repr(name)


def looks_like_a_key(text: str) -> bool:
    """Whether a word begins as the keys and tokens of services do, and is as long as they are."""
    return _KEY.match(text) is not None


def _by_its_length(name: str) -> str:
    return f"(a name of {len(name)} characters)"


class Vocabulary:
    """Known names, for finding the one that a near miss resembles.

    Args:
        names: Pairs of a name and of what to call it when it was meant.
    """

    def __init__(self, names: Iterable[tuple[str, str]]) -> None:
        self._meanings: Mapping[str, str] = {_plain(name): meaning for name, meaning in names}

    def nearest(self, name: object) -> str | None:
        """What was probably meant: `guidanceScale` and `guidence_scale` both mean `guidance_scale`."""
        if not isinstance(name, str) or len(name) > _LONGEST:
            return None
        close = difflib.get_close_matches(_plain(name), self._meanings, n=1, cutoff=_LIKENESS)
        return self._meanings[close[0]] if close else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
