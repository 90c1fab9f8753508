"""Installs the tools of the tests of `supabase/`: PostgreSQL with pgTAP by apt-get, Deno and the Supabase CLI from npm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from builder.install_node_packages import install

FOLDER = Path(__file__).parents[1] / "supabase/tests"
_SERVERS = Path("/usr/lib/postgresql")
_EXTENSIONS = {"pgtap": "pgtap", "plpgsql_check": "plpgsql-check"}
"""Packages by extension, after `postgresql-MAJOR-`."""


def missing_packages() -> Iterator[str]:
    """Yields the packages that are missing. Extensions depend on the version of the server: ask again once that is installed."""
    versions = sorted((int(path.parents[1].name) for path in _SERVERS.glob("*/bin/initdb")), reverse=True)
    if not versions:
        yield "postgresql"
        return
    installed = Path(f"/usr/share/postgresql/{versions[0]}/extension")
    yield from (f"postgresql-{versions[0]}-{name}" for each, name in _EXTENSIONS.items() if not (installed / f"{each}.control").is_file())
    if shutil.which("pg_prove") is None:
        yield "libtap-parser-sourcehandler-pgtap-perl"


def install_packages(packages: list[str]) -> None:
    """Installs packages, as root or by sudo.

    Raises:
        subprocess.CalledProcessError: apt-get failed.
    """
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    subprocess.run([*as_root, "apt-get", "update", "-qq"], check=True)
    command = [*as_root, "apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    """Installs what is missing and returns the exit status of npm."""
    while packages := list(missing_packages()):
        install_packages(packages)
    return install(FOLDER, "--ignore-scripts")  # which only make links to the executables, and need a Node of the machine's own


if __name__ == "__main__":
    sys.exit(main())
