"""The glossary's terms lead to the code that does them, and retired names do not come back."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from io import StringIO
from pathlib import Path
from token import NAME
from tokenize import generate_tokens

import pytest

ROOT = Path(__file__).parents[1]
GLOSSARY = re.findall(r"^\| ([^|`]+) \| [^|]+ \| `([\w/.]+)` \|$", (ROOT / "docs/glossary.md").read_text("utf-8"), flags=re.MULTILINE)

SEARCHED = (
    "SSRF", "KV cache", "prefill", "prefix cache", "offload", "backoff", "idempotent", "deduplicate", "graceful shutdown", "mutation test",
    "context manager", "LRU",
)  # fmt: skip
"""What an engineer who joins looks for first."""

RETIRED_IDENTIFIERS = frozenset(
    {
        "let_go", "overseen", "Departure", "in_hand", "hastily", "Courier", "unasked", "Parcel", "Draft", "give_up_the_old",
        "Deliveries", "threads_of_its_own", "WatchedText", "Relay", "condemn", "Look", "Wire", "Otherwise", "Notes", "Part",
        "FailedTry", "Shelf", "Board", "BOARDS", "Ladder", "Rung", "climb", "FREED", "on_the_cpu", "in_tiles", "in_full_precision",
        "staged", "Eye", "Glance", "_sighted", "sparing", "laid_over", "look_through", "Looks", "Need", "Finishing", "Residence",
        "bring", "send_away", "make_room", "coded_in", "ways_of", "ending_at", "Row", "RowCache", "Prefixes", "_Reading", "_Beginning",
        "Voice", "Manner", "Chooser", "longest_alone", "rows_at_once", "_take_in", "Asked", "Served", "Product", "inbox",
    }
)  # fmt: skip
"""Identifiers of an earlier vocabulary."""

RETIRED_WORDS = ("nobody", "somebody", "whoever", "let go", "lets go", "have it done", "hastily")
"""Words that stood for the field's terms."""


@cache
def _texts() -> dict[str, str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    names = [name for name in listed if name.endswith((".py", ".md", ".toml", "Makefile")) and name != "tests/test_language.py"]
    return {name: (ROOT / name).read_text("utf-8") for name in names if (ROOT / name).is_file()}


def _identifiers(text: str) -> set[str]:
    return {token.string for token in generate_tokens(StringIO(text).readline) if token.type == NAME}


@pytest.mark.parametrize(("term", "module"), GLOSSARY, ids=[term for term, _ in GLOSSARY])
def test_a_search_for_a_term_of_the_glossary_finds_its_module(term: str, module: str) -> None:
    text = re.sub(r"[\s_-]+", " ", (ROOT / module).read_text("utf-8")).lower()
    assert re.sub(r"[\s_-]+", " ", term).lower() in text


@pytest.mark.parametrize("term", SEARCHED)
def test_what_a_newcomer_searches_for_is_in_the_code_that_does_it(term: str) -> None:
    code = {name: text for name, text in _texts().items() if name.startswith(("shared/", "handlers/", "tests/mutations/"))}
    assert [name for name, text in code.items() if term.lower() in text.lower()] != []
    assert any(term.lower() in listed.lower() for listed, _ in GLOSSARY)


def test_no_retired_identifier_is_used() -> None:
    code = {path: text for path, text in _texts().items() if path.endswith(".py")}
    assert {path: found for path, text in code.items() if (found := _identifiers(text) & RETIRED_IDENTIFIERS)} == {}


@pytest.mark.parametrize("word", RETIRED_WORDS)
def test_a_retired_word_occurs_nowhere(word: str) -> None:
    assert [path for path, text in _texts().items() if re.search(rf"\b{word}\b", text, flags=re.IGNORECASE)] == []
