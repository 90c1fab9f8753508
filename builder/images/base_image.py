"""Builds a Python 3.11 base image from Debian packages, without an image registry: `python -m builder.images.base_image`.

Requires root, buildah and debootstrap. Use the result with `make image ARGS="BASE_IMAGE=localhost/python-debian:3.11"`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from builder.command_line import command_parser
from builder.images.container_engine import ENGINES

TAG = "localhost/python-debian:3.11"

_SUITE = "bookworm"
_PACKAGES = "python3,python3-venv,libpython3-dev,ca-certificates"
# As in the official Python images: `python` and `pip` in /usr/local, isolated from Debian's own packages.
_INSTALL = "python3 -m venv /usr/local && ln -sf python3 /usr/local/bin/python"
_PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"


def make_base_image(storage: Sequence[str] = ()) -> bool:
    """Builds the image unless it exists.

    Args:
        storage: buildah's global options for its image storage.

    Returns:
        Whether it was built by this call.

    Raises:
        subprocess.CalledProcessError: A command failed and has printed the reason to standard error.
    """
    buildah = ["buildah", *storage]
    if subprocess.run([*buildah, "inspect", "--type", "image", TAG], capture_output=True, check=False).returncode == 0:
        return False
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "root")
        _run(["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, str(root)])
        for archive in (root / "var/cache/apt/archives").glob("*.deb"):
            archive.unlink()
        container = _run([*buildah, "from", "scratch"])
        _run([*buildah, "add", "--quiet", container, str(root), "/"])
    _run([*buildah, "run", *ENGINES["buildah"][-2:], container, "--", "sh", "-c", _INSTALL])
    _run([*buildah, "config", "--env", f"PATH={_PATH}", container])
    _run([*buildah, "commit", "--quiet", "--rm", container, TAG])
    return True


def _run(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    command_parser("base_image", __doc__).parse_args(arguments)
    if missing := [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]:
        print(f"Not installed: {', '.join(missing)}. Run `apt-get install {' '.join(missing)}`.", file=sys.stderr)
        return 1
    print(f"{TAG}  {'built' if make_base_image() else 'already exists'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
