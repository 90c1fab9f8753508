"""The edge functions in real Deno, of the hosted runtime's version and the newest, on a real database."""

from __future__ import annotations

import pytest

from tests.doubles.deno import TESTS, VERSIONS, deno
from tests.doubles.postgres import Database

FILES = sorted(path.name for path in (TESTS / "functions").glob("*_test.ts"))


@pytest.mark.parametrize("version", VERSIONS)
def test_functions_and_their_tests_have_no_type_error(version: str) -> None:
    deno(version, "check", "functions/*/index.ts", "tests/functions/*.ts", "tests/doubles/*.ts", "../examples/client.ts")


def test_functions_are_formatted_and_have_no_lint() -> None:
    deno("newest", "lint", "functions")
    deno("newest", "fmt", "--check", "functions", "tests/functions", "tests/doubles", "../examples/client.ts")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES)
def test_the_functions_pass_their_tests(file: str, version: str, database: Database) -> None:
    permissions = ("--allow-env", "--allow-read", "--allow-sys", "--allow-net=127.0.0.1")
    printed = deno(version, "test", "--no-check", *permissions, f"tests/functions/{file}", SUPABASE_DB_URL=database.url)
    assert " 0 failed" in printed
