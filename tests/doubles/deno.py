"""Runs Deno on the Supabase project."""

from __future__ import annotations

import os
import subprocess

from tests.doubles.postgres import PROJECT

TESTS = PROJECT / "tests"
VERSIONS = {"hosted": TESTS / "node_modules/deno-hosted/node_modules/@deno", "newest": TESTS / "node_modules/@deno"}
"""Where the packages of the hosted runtime's version and of the newest are."""

CONFIG = ("--no-lock", "--config", "functions/deno.json")


def executable(version: str) -> str:
    """Returns the path of Deno in one of the versions."""
    (found,) = VERSIONS[version].glob("*/deno")
    return str(found)


def deno_environment(**variables: str) -> dict[str, str]:
    """Returns the environment for Deno: the machine's certificates, and packages cached with the tools."""
    cache = {"DENO_DIR": str(TESTS / "node_modules/.deno"), "DENO_TLS_CA_STORE": "system,mozilla"}
    return os.environ | cache | {"DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"} | variables


def deno(version: str, command: str, *arguments: str, **variables: str) -> str:
    """Runs a command of Deno in `supabase/` and returns what it prints."""
    config = CONFIG[1:] if command in ("lint", "fmt") else CONFIG
    expanded = [str(path) for argument in arguments for path in (sorted(PROJECT.glob(argument)) if "*" in argument else [argument])]
    line = [executable(version), command, "--quiet", *config, *expanded]
    done = subprocess.run(line, cwd=PROJECT, env=deno_environment(**variables), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
