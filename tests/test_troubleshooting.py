"""docs/troubleshooting.md quotes messages as the code has them."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = [(double or single).strip() for double, single in re.findall(r"^\| (?:`` (.+?) ``|`([^`]+)`) \|", PAGE, flags=re.MULTILINE)]


@cache
def texts() -> str:
    """Every text of the code, and the Makefile."""
    found = [(ROOT / "Makefile").read_text(encoding="utf-8")]
    for path in [*(ROOT / "shared").rglob("*.py"), *(ROOT / "handlers").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join(found)


def test_every_row_quotes_a_message() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| message", "| log line"))]
    assert len(MESSAGES) == len(rows) > 40


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_is_printed_by_the_code(message: str) -> None:
    fragments = [fragment for fragment in message.split("…") if len(fragment.strip(" .,()")) > 2]
    assert fragments
    assert [fragment for fragment in fragments if fragment not in texts()] == []
