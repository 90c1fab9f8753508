"""The migrations apply with the Supabase CLI, and its checks find nothing."""

from __future__ import annotations

import subprocess

from tests.doubles.postgres import PROJECT, Database, PostgresServer, supabase


def test_the_linter_finds_nothing_in_the_functions(postgres: PostgresServer) -> None:
    supabase("db", "lint", f"--remote={postgres.migrated().url}", "--schema", "public,private", "--fail-on", "warning")


def test_the_advisors_find_no_open_table_and_no_unsafe_function(postgres: PostgresServer) -> None:
    supabase("db", "advisors", f"--remote={postgres.migrated().url}", "--fail-on", "warn")


def test_the_migrations_are_applied_once(postgres: PostgresServer) -> None:
    applied = postgres.migrated().rows("select version from supabase_migrations.schema_migrations order by 1")
    assert [row["version"] for row in applied] == sorted(path.name.partition("_")[0] for path in (PROJECT / "migrations").glob("*.sql"))
    assert "up to date" in supabase("db", "push", f"--remote={postgres.migrated().url}")


def test_the_database_tests_pass(database: Database) -> None:
    files = sorted(str(path) for path in (PROJECT / "tests/database").glob("*.test.sql"))
    assert files
    done = subprocess.run(["pg_prove", "-d", database.url, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
