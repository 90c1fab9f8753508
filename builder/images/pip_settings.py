"""Hands to the build of an image what pip is told on this machine: a mirror, a certificate, folders of packages."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def pip_options(scratch: Path) -> list[str]:
    """Options of `podman build` and `buildah build` that lend pip's settings and the folders that they name. None of it enters an image.

    Args:
        scratch: A folder for a file with these settings, which the build reads.
    """
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    settings = dict(re.findall(r"^(?:global|:env:)\.([a-z-]+)='(.*)'$", listed, flags=re.MULTILINE))
    configuration = scratch / "pip.conf"
    configuration.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    words = [word for value in settings.values() for word in value.split()]
    # The pages of an index link to files beside it.
    named = {Path(word.removeprefix("file://")).parent if word.startswith("file://") else Path(word) for word in words}
    local = sorted(path for path in named if path.is_absolute() and path.exists())
    mounts = {configuration: Path("/etc/pip.conf"), **{path: path for path in local}}
    return [part for source, target in mounts.items() for part in ("--volume", f"{source}:{target}:ro")]
