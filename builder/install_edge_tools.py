"""Installs the tools of the tests of `supabase/`: PostgreSQL with pgTAP from Debian, Deno and the Supabase CLI from npm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from builder.install_node_packages import install

FOLDER = Path(__file__).parents[1] / "supabase/tests"
DEBIAN_PACKAGES = ("postgresql", "postgresql-15-pgtap", "postgresql-15-plpgsql-check", "libtap-parser-sourcehandler-pgtap-perl")
_EXTENSIONS = Path("/usr/share/postgresql/15/extension")


def missing_debian_packages() -> bool:
    """Whether PostgreSQL, one of its extensions or pg_prove is not installed."""
    extensions = all((_EXTENSIONS / f"{name}.control").is_file() for name in ("pgtap", "plpgsql_check"))
    return not extensions or shutil.which("psql") is None or shutil.which("pg_prove") is None


def main() -> int:
    """Installs what is missing, Debian's packages only as root, and returns the exit status."""
    if missing_debian_packages():
        if os.geteuid() != 0:
            print(f"Run as root: apt-get install {' '.join(DEBIAN_PACKAGES)}", file=sys.stderr)
            return 1
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *DEBIAN_PACKAGES]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return install(FOLDER)


if __name__ == "__main__":
    sys.exit(main())
