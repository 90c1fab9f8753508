"""Each thing lives with its only user: a module of `shared/` serves two handlers, or `shared/` itself."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for path in (ROOT / "shared").rglob("*.py")
    if path.name != "__init__.py" and not path.is_relative_to(ROOT / "shared/contract")
)
PROGRAMS = {"shared.redeliver"}
"""Started with `python -m`, and imported by nothing."""


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@cache
def _users() -> dict[str, set[str]]:
    """For each imported module the packages that import it: `shared`, `handlers.sdxl`, …"""
    users: dict[str, set[str]] = {}
    for path in [*(ROOT / "shared").rglob("*.py"), *(ROOT / "handlers").glob("*/**/*.py")]:
        parts = path.relative_to(ROOT).parts
        user = "shared" if parts[0] == "shared" else ".".join(parts[:2])
        for name in _imported(path):
            users.setdefault(name, set()).add(user)
    return users


@pytest.mark.parametrize("module", [module for module in MODULES if module not in PROGRAMS])
def test_a_module_of_shared_serves_two_handlers_or_shared_itself(module: str) -> None:
    users = _users().get(module, set())
    assert "shared" in users or len(users) > 1, f"only {users or 'nothing'} imports it: it belongs there"
